"""What `usage` and `who` show with `--simulate`: a pool as after `apply`, with made-up images and containers on it."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from thinpoolmgr.core.engine_graph import EngineContainer, EngineGraph, EngineImage, EngineLayer, chain_ids
from thinpoolmgr.core.holders import Holder, Holders, Process
from thinpoolmgr.core.lifecycle import view_pool
from thinpoolmgr.core.model import DmDevice, EngineDevice, EngineState, ThinPoolStatus
from thinpoolmgr.core.plan import Memory
from thinpoolmgr.core.planner import plan_apply
from thinpoolmgr.core.usage import PoolUse, ThinUse
from thinpoolmgr.sim.host import checked, simulated_snapshot
from thinpoolmgr.sim.parts import add_device
from thinpoolmgr.sim.steps import apply_step
from thinpoolmgr.units import GIB

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredPool, DesiredState
    from thinpoolmgr.core.model import Snapshot


class _Made(NamedTuple):
    """A thin device of the example: the driver's name, chunks mapped and exclusive, and whether it is active."""

    name: str
    mapped: int
    exclusive: int
    is_active: bool = False


def _digest(seed: str) -> str:
    return sha256(seed.encode()).hexdigest()


_DIFFS = tuple(f"sha256:{_digest(name)}" for name in ("debian", "web", "db"))
_WEB, _DB = chain_ids(_DIFFS[:2]), chain_ids((_DIFFS[0], _DIFFS[2]))
_SHOP, _STORE = _digest("shop"), _digest("store")
_RECORDED = (
    _Made("base", 12, 0),
    _Made(_digest("cache debian"), 240, 8),
    _Made(_digest("cache web"), 410, 170),
    _Made(_digest("cache db"), 620, 380),
    _Made(f"{_SHOP}-init", 410, 1),
    _Made(_SHOP, 520, 111, is_active=True),
    _Made(f"{_STORE}-init", 620, 1),
    _Made(_STORE, 1900, 1280),
    _Made(_digest("left behind"), 245, 5),
)
_ALL = (*_RECORDED, _Made("", 30, 30))
_SHARED_CHUNKS = 730
_SIZE_BYTES = 10 * GIB
_GRAPH = EngineGraph(
    images=(
        EngineImage(f"sha256:{_digest('image web')}", ("web:latest",), _WEB),
        EngineImage(f"sha256:{_digest('image db')}", ("db:15", "db:latest"), _DB),
    ),
    layers=(
        EngineLayer(_WEB[0], _digest("cache debian")),
        EngineLayer(_WEB[1], _digest("cache web"), _WEB[0]),
        EngineLayer(_DB[1], _digest("cache db"), _DB[0]),
    ),
    containers=(
        EngineContainer(
            _digest("container shop"), "shop", f"sha256:{_digest('image web')}", _SHOP, f"{_SHOP}-init", _WEB[1]
        ),
        EngineContainer(
            _digest("container store"), "store", f"sha256:{_digest('image db')}", _STORE, f"{_STORE}-init", _DB[1]
        ),
    ),
)


def simulated_use(desired: DesiredState, pool: DesiredPool) -> tuple[Snapshot, EngineGraph, PoolUse]:
    """Return a host with the pool in use, what its engine's files say, and what thin_ls would.

    A pool that `apply` would refuse to make stays absent, and nothing is on it.
    """
    snapshot = simulated_snapshot(desired)
    for step in plan_apply(desired, snapshot, Memory(), only=pool.name).steps:
        snapshot = apply_step(snapshot, step)
    live = view_pool(pool, snapshot).device
    if live is None or live.pool_status is None:
        return snapshot, EngineGraph(), PoolUse((), ThinPoolStatus("rw"))
    used = sum(made.exclusive for made in _ALL) + _SHARED_CHUNKS
    status = replace(live.pool_status, used_data_blocks=used, transaction_id=len(_ALL))
    devices = tuple(replace(d, pool_status=status) if d is live else d for d in snapshot.dm_devices)
    engines = tuple(replace(engine, state=_state(f"{engine.data_root}/devicemapper")) for engine in snapshot.engines)
    snapshot = replace(snapshot, dm_devices=devices, engines=engines)
    for number, made in enumerate(_ALL, start=1):
        if made.is_active:
            snapshot = add_device(snapshot, _active(made, number, live.devno))
    chunk = pool.chunk_bytes
    uses = (ThinUse(number, made.mapped * chunk, made.exclusive * chunk) for number, made in enumerate(_ALL, start=1))
    return checked(snapshot), _GRAPH, PoolUse(tuple(uses), status)


def _state(path: str) -> EngineState:
    records = (EngineDevice(made.name, number, _SIZE_BYTES, number) for number, made in enumerate(_RECORDED, start=1))
    return EngineState(path, _digest("base uuid"), _SIZE_BYTES, len(_RECORDED), tuple(records))


def _active(made: _Made, number: int, pool: str) -> DmDevice:
    return DmDevice(
        name=f"docker-8:1-4711-{made.name}",
        uuid="",
        devno="",
        open_count=1,
        targets=("thin",),
        depends_on=(pool,),
        size_bytes=_SIZE_BYTES,
        table=f"{pool} {number}",
    )


def simulated_holders(watched: dict[str, str]) -> Holders:
    """Return who holds these devices (names by `MAJOR:MINOR`): containers, each in a mount namespace of its own."""
    process = Process(4711, "nginx -g 'daemon off;'", container=_GRAPH.containers[0].id)
    return Holders(
        tuple(
            Holder(name, number, "mount", ("/",), "mnt:[4026532201]", processes=(process,), process_count=1)
            for number, name in watched.items()
            if _SHOP in name
        )
    )

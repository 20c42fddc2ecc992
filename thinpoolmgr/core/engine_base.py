"""An engine's base device: how large it really is, how it is grown, and what making it smaller takes.

Docker records a new base size before it grows the file system, and never tries the same size again
(checkGrowBaseDeviceFS in daemon/graphdriver/devmapper/deviceset.go): its record is what it wanted, the superblock what
there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from thinpoolmgr.core.engine_graph import say_contents
from thinpoolmgr.core.plan import Refusal
from thinpoolmgr.core.steps import GROWN_NAME, GrowBase, RemoveDmDevice, Step
from thinpoolmgr.units import MIB, exact_size, parse_size

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredEngine
    from thinpoolmgr.core.engines.docker_state import StateVerdict
    from thinpoolmgr.core.lifecycle import PoolView
    from thinpoolmgr.core.model import Engine, Snapshot

# A last group of blocks that is too small is left out: mkfs.xfs (16 MiB, XFS_AG_MIN_BYTES), resize2fs.
_ROUNDING_BYTES = 16 * MIB
SHRINKS = "BASE_SIZE_SHRINKS"


def real_base_bytes(found: Engine) -> int | None:
    """Return the size of the file system in the engine's base device; None when that is not sure."""
    return found.base.size_bytes if found.base is not None and not found.why_other_base() else None


class Smaller(NamedTuple):
    """An image or a container whose root is smaller than the base: what is made of it is, too."""

    kind: Literal["image", "container"]
    name: str
    size_bytes: int


def smaller_than_base(found: Engine) -> tuple[Smaller, ...]:
    """Return the images and containers whose root is recorded with less than the base; none where nobody asked.

    A container has the size of its image's uppermost layer, and keeps it (deviceset.go, AddDevice).
    """
    if found.state is None or found.graph is None or found.state.base_size_bytes is None:
        return ()
    least, graph = found.state.base_size_bytes, found.graph
    sizes = {device.name: device.size_bytes for device in found.state.devices}
    cache_ids = {layer.chain_id: layer.cache_id for layer in graph.layers}
    tops = ((image.shown_names[0], cache_ids.get(image.layers[-1], "")) for image in graph.images if image.layers)
    roots = ((container.shown_name, container.mount_id) for container in graph.containers)
    small = [Smaller("image", name, sizes[device]) for name, device in tops if sizes.get(device, least) < least]
    small += [Smaller("container", name, sizes[device]) for name, device in roots if sizes.get(device, least) < least]
    return tuple(small)


def why_left_small(found: Engine, least_bytes: int | None = None) -> str:
    """Return by what the base's file system is smaller than recorded, or than `least_bytes`; empty: it is not."""
    recorded = found.state.base_size_bytes if found.state else None
    wanted, real = least_bytes or recorded, real_base_bytes(found)
    if found.state is None or wanted is None or real is None or wanted - real < _ROUNDING_BYTES:
        return ""
    return (
        f"{found.state.path}/metadata/base says {exact_size(wanted)}, the superblock of the base device "
        f"{exact_size(real)}"
    )


def plan_growth(engine: DesiredEngine, found: Engine, view: PoolView, snapshot: Snapshot) -> list[Step] | Refusal:
    """Return the steps after which the base's file system has, or gets from the engine, its recorded or wanted size.

    A base device that is active keeps the size that it had then, and so does its file system, whoever grows it.
    """
    recorded = found.state.base_size_bytes if found.state else None
    base, left = found.base, snapshot.find_dm(GROWN_NAME)
    if found.state is None or base is None or recorded is None:
        return []
    will_grow = parse_size(engine.config.base_size) > recorded
    why = why_left_small(found) or (f"{GROWN_NAME} was left by a run that was cut short" if left else "")
    if not will_grow and not why:
        return []
    if base.is_open:
        return _refuse_open_base(found, base.dm_name)
    steps: list[Step] = []
    if active := snapshot.find_dm(base.dm_name):
        reason = f"it is {found.name}'s base device, active with its old size, which it would keep"
        steps.append(
            RemoveDmDevice(reason=reason, pool=view.pool.name, name=active.name, uuid=active.uuid, devno=active.devno)
        )
    number = found.state.base_device_id
    if not why or will_grow or number is None or base.filesystem not in ("xfs", "ext4"):
        return steps
    steps.append(
        GrowBase(
            reason=f"{why}; {found.name} does not try again",
            pool=view.pool.name,
            engine=found.name,
            pool_dm_name=view.dm_name,
            device_id=number,
            size_bytes=recorded,
            filesystem=base.filesystem,  # type: ignore[arg-type]
        )
    )
    return steps


def _refuse_open_base(found: Engine, name: str) -> Refusal:
    summary = f"{name}, the base device of {found.name}, is open"
    details = f"It keeps its size as long as it is: {found.name} would record the new one, and never grow it."
    way = f"See who has it (thinpoolmgr who {name}), end that, and run this again."
    return Refusal("DEVICE_OPEN", name, summary, details, way)


def shrinks(engine: DesiredEngine, found: Engine) -> bool:
    """Whether the configuration asks for a smaller base than there is."""
    present = found.state.base_size_bytes if found.state else None
    return present is not None and bool(engine.config.pool) and parse_size(engine.config.base_size) < present


def refuse_shrinking(engine: DesiredEngine, found: Engine, verdict: StateVerdict | None) -> Refusal | None:
    """Return why the base size is not made smaller.

    Docker does not start when dm.basesize is below what its base device has (deviceset.go).
    """
    state = found.state
    if state is None or not shrinks(engine, found) or (verdict is not None and verdict.kind == "stale"):
        return None
    present, wanted = exact_size(state.base_size_bytes or 0), exact_size(parse_size(engine.config.base_size))
    summary = f"{found.name}'s base device has {present}, base_size asks for {wanted}"
    details = (
        f"A base device cannot be made smaller, and {found.name} would not start. A smaller one takes a new pool. "
        f"Lost with it: {say_contents(found.graph, found.name)}."
    )
    resolution = (
        f'Set base_size = "{present}". Or save what you need (docker save), and let go of the rest: apply, or '
        "base-size, with --allow outage,destroy makes the pool anew and moves what refers to it aside."
    )
    return Refusal(SHRINKS, found.name, summary, details, resolution)

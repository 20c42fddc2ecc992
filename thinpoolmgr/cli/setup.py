"""Commands that set a host up: init."""

from __future__ import annotations

import os

import click

from thinpoolmgr.approval import raise_refusals
from thinpoolmgr.cli.options import Options, global_options, options_of
from thinpoolmgr.cli.pools import real_host, require_root, simulated_host
from thinpoolmgr.cli.render import Renderer
from thinpoolmgr.config import DROP_IN_FOLDER, MAIN_FILE
from thinpoolmgr.core.desired import DesiredEngine, DesiredPool, DesiredState, EngineConfig, PoolConfig, is_device_path
from thinpoolmgr.core.engines import ENGINES
from thinpoolmgr.core.inventory import (
    POOL_NAME,
    Inventory,
    NamedDisk,
    check_named,
    init_document,
    name_device,
    refuse_without_candidate,
    take_inventory,
)
from thinpoolmgr.core.model import Snapshot
from thinpoolmgr.core.template import config_text
from thinpoolmgr.errors import RefusedError, UnavailableError
from thinpoolmgr.host.files import write_atomically
from thinpoolmgr.host.store import Store

_SIMULATED_DISK = "/dev/disk/by-id/virtio-simulated"


@click.command()
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="DEVICE",
    callback=lambda *args: _check_devices(args[2]),
    help="Put the pool on this device; may be given more than once.",
)
@click.option("--engine", type=click.Choice(["docker", "containerd"]), help="The engine that lives on the pool.")
@global_options
@click.pass_context
def init(context: click.Context, *, devices: tuple[str, ...], engine: str | None) -> None:
    """Write a commented configuration from what the host has.

    Lists the disks that could carry a pool and those that could not, with the reason. A configuration that exists is
    never overwritten.
    """
    options = options_of(context)
    _require_supported(engine)
    file = os.path.abspath(options.config or MAIN_FILE)
    renderer = Renderer(options)
    snapshot = _look(options, devices, file)
    inventory = take_inventory(snapshot)
    chosen = _choose(devices, inventory, snapshot)
    wanted = _require_driver(engine, snapshot) if engine else _engine_of(snapshot)
    text = config_text(chosen, _offered(inventory, snapshot), wanted)
    if not options.simulate:
        with Store().lock("init"):
            _refuse_existing(file)
            write_atomically(file, text, expect_text=None)
    document = init_document(file, inventory, chosen, snapshot, written=not options.simulate)
    if options.json:
        renderer.json(document)
    else:
        renderer.init(document, text)


def _check_devices(values: tuple[str, ...]) -> tuple[str, ...]:
    wrong = next((value for value in values if not is_device_path(value)), None)
    if wrong is not None:
        raise click.BadParameter(f"{wrong!a} is not the absolute path of a device, such as /dev/disk/by-id/...")
    return values


def _require_supported(engine: str | None) -> None:
    if engine is not None and engine not in ENGINES:
        summary = f"{engine} is not supported yet"
        raise UnavailableError(summary, f"Supported: {', '.join(ENGINES)}", "Leave --engine out to make a pool only.")


def _refuse_existing(file: str) -> None:
    """Make sure that no configuration is overwritten, or doubled by drop-ins that stand already."""
    is_default = file == str(MAIN_FILE)
    drop_ins = sorted(map(str, DROP_IN_FOLDER.glob("*.toml"))) if is_default else []
    there = [*([file] if os.path.lexists(file) else []), *drop_ins]
    if there:
        resolution = "Edit it, or move it away and run this again; or write to another file: --config FILE."
        raise RefusedError(f"{there[0]} exists, and is not overwritten", "", resolution, code="CONFIG_EXISTS")


def _desired(devices: tuple[str, ...]) -> DesiredState:
    """What is to be looked at: the named devices, and an engine that may be there."""
    engine = DesiredEngine("docker", EngineConfig(pool=POOL_NAME), implied=True)
    return DesiredState((DesiredPool(POOL_NAME, PoolConfig(devices=devices)),), (engine,))


def _look(options: Options, devices: tuple[str, ...], file: str) -> Snapshot:
    """Look at all disks of this host, or at the in-memory one: with `--simulate` it needs a disk to show."""
    simulated = simulated_host(options, _desired(devices or (_SIMULATED_DISK,)))
    if simulated is not None:
        return simulated.observe()
    require_root()
    _refuse_existing(file)
    return real_host(_desired(devices), all_disks=True).observe()


def _choose(devices: tuple[str, ...], inventory: Inventory, snapshot: Snapshot) -> tuple[NamedDisk, ...]:
    """Return the devices that are written: those that were named, or the only candidate; none of several.

    Raises:
        RefusedError: a named device must not be used, or there is no candidate.
        ConfigError: a device is named twice.

    """
    if devices:
        refusals = check_named(devices, snapshot)
        # A mistake in what was typed is said before what stands on the disks.
        raise_refusals(tuple(sorted(refusals, key=lambda refusal: -refusal.exit_code)))
        return tuple(name_device(path, snapshot) for path in devices)
    if not inventory.candidates:
        raise_refusals((refuse_without_candidate(inventory),))
    return _offered(inventory, snapshot) if len(inventory.candidates) == 1 else ()


def _offered(inventory: Inventory, snapshot: Snapshot) -> tuple[NamedDisk, ...]:
    return tuple(name_device(disk.path, snapshot) for disk in inventory.candidates)


def _require_driver(engine: str, snapshot: Snapshot) -> str:
    found = snapshot.find_engine(engine)
    if found is not None and ENGINES[engine].supports_driver(found.version) is False:
        raise UnavailableError(*ENGINES[engine].unsupported_text(found.version))
    return engine


def _engine_of(snapshot: Snapshot) -> str:
    """Return the engine to configure when none is asked for: one that is installed and has the driver, or none."""
    found = [
        engine.name
        for engine in snapshot.engines
        if engine.installed and ENGINES[engine.kind].supports_driver(engine.version) is not False
    ]
    return next(iter(found), "")

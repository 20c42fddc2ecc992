"""Docker's devicemapper driver: its options, and its place in daemon.json.

Rules without another source are from daemon/graphdriver/devmapper/deviceset.go of Docker 20.10 to 24.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING

from thinpoolmgr.core.engines.daemon_json import DaemonJsonError, parse_object, refuse, set_members
from thinpoolmgr.units import parse_size

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import EngineConfig
    from thinpoolmgr.core.engines.daemon_json import JsonObject
    from thinpoolmgr.core.model import Engine

DRIVER = "devicemapper"
FIRST_VERSION_WITHOUT_DRIVER = 25
_DM_PREFIX = "/dev/mapper/"
# Each describes a pool that Docker makes itself; dm.thinp_* without dm.directlvm_device stops the daemon.
_OPTIONS_OF_OTHER_POOLS = frozenset(
    {
        *("dm.datadev", "dm.metadatadev", "dm.loopdatasize", "dm.loopmetadatasize"),
        *("dm.directlvm_device", "dm.directlvm_device_force", "dm.thinp_percent", "dm.thinp_metapercent"),
        *("dm.thinp_autoextend_threshold", "dm.thinp_autoextend_percent"),
    }
)
_VERSION = re.compile(r"v?(\d{1,4})(?:[.+~-].*)?", re.ASCII | re.DOTALL)
_RAM = re.compile(r"(\d{1,18}(?:\.\d{1,6})?) ?([kmgtp]?)i?b?", re.ASCII | re.IGNORECASE)
_DEVICE_NAME = re.compile(r"docker-\d+:\d+-\d+-(.+)", re.ASCII | re.DOTALL)
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


def storage_options(config: EngineConfig, dm_name: str) -> tuple[str, ...]:
    """Return the `storage-opts` for a pool with this device-mapper name.

    Docker cuts off only `/dev/mapper/`, so the name must be device-mapper's own, never `VG/LV`.

    Raises:
        ValueError: when the configuration's base size is no size.

    """
    return (
        f"dm.thinpooldev={_DM_PREFIX}{dm_name}",
        f"dm.fs={config.filesystem}",
        f"dm.basesize={_docker_size(parse_size(config.base_size))}",
        f"dm.use_deferred_removal={_go_bool(config.deferred_removal)}",
        f"dm.use_deferred_deletion={_go_bool(config.deferred_deletion)}",
        f"dm.min_free_space={config.min_free_space_percent}%",
    )


def _docker_size(size_bytes: int) -> str:
    # Docker reads sizes into a float64 and multiplies by powers of 1024: a whole number below 2**53 is exact.
    for power, letter in enumerate("TGMK"):
        factor = 1024 ** (4 - power)
        if size_bytes % factor == 0:
            return f"{size_bytes // factor}{letter}"
    return str(size_bytes)


def _go_bool(value: bool) -> str:  # noqa: FBT001 - the value is the subject
    return "true" if value else "false"


def edit_daemon_json(text: str | None, options: tuple[str, ...]) -> str:
    """Return `text` with the devicemapper driver and `options` set, all else kept byte for byte.

    Options that thinpoolmgr does not set (`dm.mountopt`, `dm.xfs_nospace_max_retries`) keep their place. Options of
    other drivers, and of pools that Docker makes itself, are dropped: the driver refuses to start with them. A text
    that is right already, or `None` or empty, gives itself or a fresh document.

    Raises:
        DaemonJsonError: when `text` is not one JSON object with unique keys, or `storage-opts` no list of texts.

    """
    document = parse_object(text)
    wanted = _merge_options(_option_list(document), options)
    return set_members(document, {"storage-driver": DRIVER, "storage-opts": wanted})


def _option_list(document: JsonObject) -> list[str]:
    member = document.find("storage-opts")
    if member is None or member.value is None:
        return []
    if not isinstance(member.value, list):
        refuse(document.text, member.start, "storage-opts must be a list of texts")
    options = [option for option in member.value if isinstance(option, str)]
    if len(options) != len(member.value):
        refuse(document.text, member.start, "storage-opts must hold nothing but texts")
    return options


def _merge_options(present: list[str], options: tuple[str, ...]) -> list[str]:
    missing = {_split_option(option)[0]: option for option in options}
    ours = set(missing)
    # Docker lets the last of several equal keys win: the others go, and so no value of theirs counts as right.
    last_place = {_split_option(option)[0]: place for place, option in enumerate(present)}
    merged = []
    for place, option in enumerate(present):
        key, value = _split_option(option)
        if key in ours:
            if place == last_place[key]:
                wanted = missing.pop(key)
                merged.append(option if _same_value(key, value, _split_option(wanted)[1]) else wanted)
        elif key.startswith("dm.") and key not in _OPTIONS_OF_OTHER_POOLS:
            merged.append(option)
    return merged + list(missing.values())


def _split_option(option: str) -> tuple[str, str]:
    key, _, value = option.partition("=")
    return key.strip().lower(), value.strip()


def _same_value(key: str, first: str, second: str) -> bool:
    """Return whether Docker reads the same from both: rewriting one into the other would cost a restart."""
    if key == "dm.thinpooldev":
        return first.removeprefix(_DM_PREFIX) == second.removeprefix(_DM_PREFIX)
    if key == "dm.basesize":
        return _ram_in_bytes(first) == _ram_in_bytes(second)
    return first == second or any({first, second} <= words for words in (_TRUE, _FALSE) if key.startswith("dm.use_"))


def _ram_in_bytes(text: str) -> Fraction | None:
    """Return what go-units' RAMInBytes reads: every unit is 1024-based, `GB` too."""
    match = _RAM.fullmatch(text)
    return Fraction(match[1]) * 1024 ** " kmgtp".index(match[2].lower() or " ") if match else None


def supports_devicemapper(version: str) -> bool | None:
    """Return whether a Docker of this version has the driver (removed in 25); None when `version` is no version."""
    match = _VERSION.fullmatch(version.strip())
    return int(match[1]) < FIRST_VERSION_WITHOUT_DRIVER if match else None


def unsupported_text(version: str) -> tuple[str, str, str]:
    """Return summary, details and resolution for a Docker without the driver (exit code 69)."""
    shown = ascii(version[:40])[1:-1]
    return (
        f"Docker {shown} has no devicemapper storage driver",
        "Docker removed the driver in version 25; 24.0 is the last that has it.",
        (
            "Either install Docker 24.0 or older and hold the package at that version, or leave Docker on overlay2 and "
            "give the pool to another engine: containerd's devmapper snapshotter is maintained ([engines.containerd])."
        ),
    )


def is_configured(engine: Engine, options: tuple[str, ...]) -> bool:
    """Return whether the engine's daemon.json holds the driver and `options`, in whatever form."""
    try:
        return edit_daemon_json(engine.config_text, options) == engine.config_text
    except DaemonJsonError:
        return False


def configured_pool_dm_name(text: str | None) -> str:
    """Return the device-mapper name of the pool that a daemon.json names; empty when it names none.

    Raises:
        DaemonJsonError: as for `edit_daemon_json`.

    """
    document = parse_object(text)
    driver = document.find("storage-driver")
    if driver is not None and driver.value != DRIVER:
        return ""
    values = dict(_split_option(option) for option in _option_list(document))
    return values.get("dm.thinpooldev", "").removeprefix(_DM_PREFIX)


def driver_name(dm_name: str) -> str:
    """Return what the driver calls a device with this device-mapper name: its hash, or `base`; empty: not Docker's.

    `docker-MAJOR:MINOR-INODE-HASH`, the numbers those of the driver's directory (deviceset.go, getDevName).
    """
    match = _DEVICE_NAME.fullmatch(dm_name)
    return match[1] if match else ""


def configured_data_root(text: str | None) -> str:
    """Return the data root that a daemon.json names (`graph` is its name before 17.05); empty when it names none.

    Raises:
        DaemonJsonError: when `text` is not one JSON object with unique keys.

    """
    document = parse_object(text)
    roots = [member.value for member in map(document.find, ("data-root", "graph")) if member]
    return next((root for root in roots if isinstance(root, str)), "")

"""The desired state: the configuration's tables as frozen values, and the rules one value cannot show.

Field names are the keys of the configuration file. Sizes stay text until a rule needs them, so that what is
shown is what was written.
"""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from thinpoolmgr.core.names import dm_name_problem, group_name_problem, lv_name_problem
from thinpoolmgr.units import GIB, KIB, SECTOR_BYTES, parse_size

MIN_CHUNK_BYTES = 64 * KIB
MAX_CHUNK_BYTES = GIB
MIN_METADATA_BYTES = 2 * KIB * KIB
MAX_METADATA_BYTES = 16_184 * KIB * KIB
"""15.8 GiB: what a cropping LVM (2.03.14 and later) and every older one can use."""
_KERNEL_NAME = re.compile(r"/dev/(sd|vd|xvd|hd|nvme|mmcblk|dm-|md)[a-z0-9]*", re.ASCII)
GLOB_KEYS = ("serial", "model", "wwn", "path", "transport")
SELECTOR_KEYS = (*GLOB_KEYS, "rotational", "min_size")
_EXTENT_SHARE = re.compile(r"(\d{1,3})%(VG|FREE)", re.ASCII)


class ExtendPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """`[pools.NAME.extend]`: when and how far a pool grows, and who sees to it."""

    data_threshold_percent: int = 80
    metadata_threshold_percent: int = 80
    step_percent: int = 20
    max_size: str = "none"
    monitor: Literal["thinpoolmgr", "dmeventd", "none"] = "thinpoolmgr"


class MatchConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`[[pools.NAME.match]]`: chooses exactly `count` disks by their properties; all keys that are given must hold."""

    serial: str | None = None
    model: str | None = None
    wwn: str | None = None
    path: str | None = None
    transport: str | None = None
    rotational: bool | None = None
    min_size: str | None = None
    count: int = 1


class PoolConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`[pools.NAME]`: one thin pool and the disks that carry it."""

    devices: tuple[str, ...] = ()
    volume_group: str = ""
    thin_pool: str = "thinpool"
    data_size: str = "95%VG"
    metadata_size: str = "auto"
    chunk_size: str = "512KiB"
    zero_new_blocks: bool = False
    discards: Literal["ignore", "nopassdown", "passdown"] = "passdown"
    when_full: Literal["queue", "error"] = "queue"
    wipe_signatures: bool = False
    spare_devices: tuple[str, ...] = ()
    match: tuple[MatchConfig, ...] = ()
    extend: ExtendPolicy = ExtendPolicy()


class EngineConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`[engines.docker]`: the engine that lives on a pool, and its driver's options."""

    pool: str
    base_size: str = "10GiB"
    filesystem: Literal["xfs", "ext4"] = "xfs"
    deferred_removal: bool = True
    deferred_deletion: bool = True
    min_free_space_percent: int = 10
    config_file: str = "auto"


class DesiredPool(Struct, frozen=True):
    """A pool of the configuration with its name and its defaults filled in."""

    name: str
    config: PoolConfig
    chosen_by: tuple[str, ...] = ()
    """For each of `config.devices` the selector that chose it; empty where they were named, or not looked for yet."""

    @property
    def group(self) -> str:
        """Name of the volume group; the pool's own name unless the configuration says otherwise."""
        return self.config.volume_group or self.name

    @property
    def lv(self) -> str:
        """Name of the thin pool's LV."""
        return self.config.thin_pool

    @property
    def path(self) -> str:
        """`VG/LV`, as LVM's commands take it."""
        return f"{self.group}/{self.lv}"

    @property
    def chunk_bytes(self) -> int:
        """Size of one data block."""
        return parse_size(self.config.chunk_size)

    def say_chosen(self) -> str:
        """Return the end of a reason, which says by what selectors the disks were chosen; empty when they are named."""
        selectors = "; ".join(dict.fromkeys(self.chosen_by))
        return f"; chosen by {selectors}" if selectors else ""


class DesiredEngine(Struct, frozen=True):
    """An engine of the configuration."""

    kind: str
    config: EngineConfig
    implied: bool = False
    """Not so in the configuration: looked for because it may be on this pool; without a pool, on whichever it is."""

    @property
    def name(self) -> str:
        """The engine's name is its kind: a host has one of each."""
        return self.kind


class DesiredState(Struct, frozen=True):
    """The whole configuration."""

    pools: tuple[DesiredPool, ...] = ()
    engines: tuple[DesiredEngine, ...] = ()
    holders_of: str = ""
    """Name of the pool that is to be taken down: who holds its open devices must be looked for."""
    names_contents: bool = False
    """What engines keep may be lost: their images and containers must be looked for, by name."""
    names_smaller: bool = False
    """The same, where some of them are smaller than the engine's base."""

    def find_pool(self, name: str) -> DesiredPool | None:
        """Return the pool with this name of the configuration."""
        return next((pool for pool in self.pools if pool.name == name), None)

    def engine_of(self, pool_name: str) -> DesiredEngine | None:
        """Return the engine that lives on this pool, or may be; None when the pool has none."""
        return next((engine for engine in self.engines if engine.config.pool in ("", pool_name)), None)


def with_implied_engine(desired: DesiredState, pool: DesiredPool, kind: str = "docker") -> DesiredState:
    """Return `desired` with an engine of this kind on `pool` to be looked for, unless the configuration has one there.

    One that is configured for another pool may be on this one still: the configuration says where it is to be.
    """
    if desired.engine_of(pool.name):
        return desired
    configured = next((engine for engine in desired.engines if engine.kind == kind), None)
    config = replace(configured.config, pool=pool.name) if configured else EngineConfig(pool=pool.name)
    others = tuple(engine for engine in desired.engines if engine is not configured)
    return replace(desired, engines=(*others, DesiredEngine(kind, config, implied=True)))


def with_engine_anywhere(desired: DesiredState, kind: str = "docker") -> DesiredState:
    """Return `desired` with an engine of this kind to be looked for on any pool, unless the configuration has one."""
    if any(engine.kind == kind for engine in desired.engines):
        return desired
    anywhere = DesiredEngine(kind, EngineConfig(pool=""), implied=True)
    return DesiredState(desired.pools, (*desired.engines, anywhere))


class Problem(Struct, frozen=True):
    """One thing wrong with a configuration: the key path, what is there, and what was expected."""

    key: str
    found: str
    expected: str


def parse_share(text: str) -> tuple[int, str] | None:
    """Return `(95, "VG")` for `95%VG`; None when `text` is no share. Shares are of the group's extents."""
    match = _EXTENT_SHARE.fullmatch(text)
    return (int(match[1]), match[2]) if match else None


def toml_value(value: object) -> str:
    """Return a printable text, a number, a truth value or an empty list as the configuration writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return "[]" if value == () else str(value)


def is_device_path(text: str) -> bool:
    """Whether `text` can name a device: an absolute path without control characters."""
    return text.startswith("/") and text.isprintable()


def unstable_names(pool: DesiredPool) -> list[str]:
    """Return the devices of `pool` that are named as the kernel happened to find them at this boot."""
    named = () if pool.chosen_by else pool.config.devices
    return [path for path in (*named, *pool.config.spare_devices) if _KERNEL_NAME.fullmatch(path)]


def unstable_name_warning(path: str, links: tuple[str, ...] = ()) -> str:
    """Return the warning for one such name, with a lasting name of the same disk where one is known."""
    stable = next((link for link in links if link.startswith("/dev/disk/by-id/")), "a name below /dev/disk/by-id")
    return f"{path} may be another disk after the next boot; {stable} stays the same."


def find_problems(desired: DesiredState) -> list[Problem]:
    """Return what is wrong with `desired` and can be seen without looking at a host."""
    problems: list[Problem] = []
    for pool in desired.pools:
        problems += _pool_problems(pool)
    problems += _shared_problems(desired)
    for engine in desired.engines:
        problems += _engine_problems(engine, desired)
    return problems


def _pool_problems(pool: DesiredPool) -> list[Problem]:
    key, config = f"pools.{pool.name}", pool.config
    problems = [
        *_name_problems(pool),
        *_device_problems(key, config),
        *_size_problems(f"{key}.data_size", config.data_size, shares=True, words=()),
        *_size_problems(f"{key}.metadata_size", config.metadata_size, shares=True, words=("auto",)),
        *_size_problems(f"{key}.extend.max_size", config.extend.max_size, shares=False, words=("none",)),
        *_chunk_problems(f"{key}.chunk_size", config.chunk_size),
    ]
    extend = config.extend
    for name, value, low, high in (
        ("data_threshold_percent", extend.data_threshold_percent, 50, 100),
        ("metadata_threshold_percent", extend.metadata_threshold_percent, 50, 100),
        ("step_percent", extend.step_percent, 1, 100),
    ):
        problems += _range_problems(f"{key}.extend.{name}", value, low, high)
    if not problems:
        problems += _metadata_range_problems(f"{key}.metadata_size", config.metadata_size)
    return problems


def _name_problems(pool: DesiredPool) -> list[Problem]:
    key, problems = f"pools.{pool.name}", []
    if not pool.name or pool.name.startswith(("-", "@")) or not pool.name.isprintable():
        problems.append(Problem(key, "this name", "a printable name that does not begin with - or @"))
    group_problem, lv_problem = group_name_problem(pool.group), lv_name_problem(pool.lv)
    if group_problem:
        where = f"{key}.volume_group" if pool.config.volume_group else key
        expected = f"a name for a volume group; this one {group_problem}"
        if not pool.config.volume_group:
            expected += " (without volume_group the pool's name is used)"
        problems.append(Problem(where, ascii(pool.group)[:60], expected))
    if lv_problem:
        problems.append(
            Problem(f"{key}.thin_pool", ascii(pool.lv)[:60], f"a name for a thin pool; this one {lv_problem}")
        )
    if not problems and (too_long := dm_name_problem(pool.group, pool.lv)):
        problems.append(
            Problem(f"{key}.thin_pool", ascii(pool.lv)[:60], f"a shorter name; together with its group it {too_long}")
        )
    return problems


def _device_problems(key: str, config: PoolConfig) -> list[Problem]:
    problems = [problem for place, match in enumerate(config.match) for problem in _match_problems(key, place, match)]
    if config.devices and config.match:
        problems.append(Problem(f"{key}.match", "devices and match", "one of the two: disks are named or chosen"))
    if not config.devices and not config.match:
        expected = f"a list of at least one device, such as /dev/disk/by-id/..., or tables [[{key}.match]]"
        problems.append(Problem(f"{key}.devices", "no device", expected))
    for list_name, devices in (("devices", config.devices), ("spare_devices", config.spare_devices)):
        for index, device in enumerate(devices):
            if not is_device_path(device):
                expected = "the absolute path of a device, such as /dev/disk/by-id/..."
                problems.append(Problem(f"{key}.{list_name}[{index}]", ascii(device)[:60], expected))
    return problems


def _match_problems(pool_key: str, place: int, match: MatchConfig) -> list[Problem]:
    key, problems = f"{pool_key}.match[{place}]", []
    given = [name for name in SELECTOR_KEYS if getattr(match, name) is not None]
    if not given:
        problems.append(Problem(key, "no property of a disk", f"at least one of {', '.join(SELECTOR_KEYS)}"))
    empty = [name for name in GLOB_KEYS if getattr(match, name) == ""]
    problems += [Problem(f"{key}.{name}", "''", "a text; * stands for any characters, ? for one") for name in empty]
    if match.min_size is not None:
        problems += _size_problems(f"{key}.min_size", match.min_size, shares=False, words=())
    if match.count < 1:
        problems.append(Problem(f"{key}.count", str(match.count), "a whole number, 1 or more"))
    return problems


def _size_problems(key: str, text: str, *, shares: bool, words: tuple[str, ...]) -> list[Problem]:
    if text in words:
        return []
    share = parse_share(text) if shares else None
    if share is not None:
        return [] if 1 <= share[0] <= 100 else [Problem(key, repr(text), "a share from 1 to 100 percent")]
    try:
        parse_size(text)
    except ValueError as error:
        alternatives = ", ".join(
            [*(repr(word) for word in words), *(["a share such as 95%VG"] if shares else []), "a size such as 100GiB"]
        )
        return [Problem(key, str(error), alternatives)]
    return []


def _chunk_problems(key: str, text: str) -> list[Problem]:
    problems = _size_problems(key, text, shares=False, words=())
    if problems:
        return problems
    size = parse_size(text)
    if size % MIN_CHUNK_BYTES or not MIN_CHUNK_BYTES <= size <= MAX_CHUNK_BYTES:
        return [Problem(key, repr(text), "a multiple of 64KiB from 64KiB to 1GiB")]
    return []


def _metadata_range_problems(key: str, text: str) -> list[Problem]:
    if text == "auto" or parse_share(text):
        return []
    if not MIN_METADATA_BYTES <= parse_size(text) <= MAX_METADATA_BYTES:
        return [Problem(key, repr(text), "at least 2MiB and at most 15.8GiB, which is what dm-thin can address")]
    return []


def _range_problems(key: str, value: int, low: int, high: int) -> list[Problem]:
    return [] if low <= value <= high else [Problem(key, str(value), f"a whole number from {low} to {high}")]


def _shared_problems(desired: DesiredState) -> list[Problem]:
    problems, groups, devices = [], {}, {}  # type: list[Problem], dict[str, str], dict[str, str]
    for pool in desired.pools:
        key = f"pools.{pool.name}"
        if pool.group in groups:
            expected = f"a volume group of its own; {groups[pool.group]} uses this one"
            problems.append(Problem(f"{key}.volume_group", repr(pool.group), expected))
        groups.setdefault(pool.group, key)
        for list_name in ("devices", "spare_devices"):
            for index, device in enumerate(getattr(pool.config, list_name)):
                where = f"{key}.{list_name}[{index}]"
                if device in devices:
                    problems.append(
                        Problem(where, repr(device), f"each disk once; it stands in {devices[device]} already")
                    )
                devices.setdefault(device, where)
    return problems


def _engine_problems(engine: DesiredEngine, desired: DesiredState) -> list[Problem]:
    key, config = f"engines.{engine.name}", engine.config
    problems = _size_problems(f"{key}.base_size", config.base_size, shares=False, words=())
    if not problems and parse_size(config.base_size) % SECTOR_BYTES:
        problems.append(Problem(f"{key}.base_size", repr(config.base_size), "a multiple of 512 bytes"))
    problems += _range_problems(f"{key}.min_free_space_percent", config.min_free_space_percent, 0, 99)
    if desired.find_pool(config.pool) is None:
        names = ", ".join(pool.name for pool in desired.pools) or "none"
        problems.append(
            Problem(f"{key}.pool", repr(config.pool), f"the name of a pool of this configuration ({names})")
        )
    if config.deferred_deletion and not config.deferred_removal:
        expected = "false, or deferred_removal = true: Docker refuses deferred deletion without deferred removal"
        problems.append(Problem(f"{key}.deferred_deletion", "true", expected))
    if config.config_file not in ("auto", "daemon.json") and not config.config_file.startswith("/"):
        problems.append(
            Problem(f"{key}.config_file", ascii(config.config_file)[:60], "'auto', 'daemon.json' or an absolute path")
        )
    return problems

"""Docker's images, layers and containers, read from its files below the data root; Docker need not run.

Reads a file or two for each layer and container: asked for by the commands that name owners, never in every look.
Layout: layer/filestore.go, image/fs.go, reference/store.go and container/container.go, Docker 20.10 to 24.
"""

from __future__ import annotations

import os
import re
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Self, TypeVar

import msgspec

from thinpoolmgr.core.engine_graph import EngineContainer, EngineGraph, EngineImage, EngineLayer, chain_ids
from thinpoolmgr.host.files import FOLDER_FLAGS, open_path, read_small

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_IMAGES, _LAYERS = "image/devicemapper/imagedb/content/sha256", "image/devicemapper/layerdb/sha256"
_MOUNTS, _NAMES, _CONTAINERS = "image/devicemapper/layerdb/mounts", "image/devicemapper", "containers"
_WORD_LIMIT_BYTES = 1024
_CONFIG_LIMIT_BYTES = 4 * 1024**2
_NAMES_LIMIT_BYTES = 64 * 1024**2
_MAX_ENTRIES = 1_000_000
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_CHAIN_ID = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
# A layer under removal is renamed to CHAIN-RANDOM-removing first (layer/filestore.go, Remove).
_LAYER_FOLDER = re.compile(r"([0-9a-f]{64})(-.*-removing)?", re.ASCII)
_CACHE_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,127}", re.ASCII)
_Item = TypeVar("_Item")
_Record = TypeVar("_Record")


class _RootFs(msgspec.Struct, frozen=True):
    diff_ids: tuple[str, ...] = ()


class _ImageConfig(msgspec.Struct, frozen=True):
    rootfs: _RootFs = _RootFs()


class _Repositories(msgspec.Struct, frozen=True):
    repositories: dict[str, dict[str, str]] = msgspec.field(default_factory=dict, name="Repositories")


class _ContainerConfig(msgspec.Struct, frozen=True):
    name: str = msgspec.field(default="", name="Name")
    image: str = msgspec.field(default="", name="Image")


def read_graph(data_root: str, *, with_parents: bool = True) -> EngineGraph:
    """Return the images, layers and containers below `data_root`; empty where there are none.

    Which layer another stands on is a file more for each: without `with_parents` it is not read.

    Symbolic links that lead to the data root are resolved; one below it is not followed. What is damaged, too long or
    not to be followed is named among the problems, and the rest is returned; nothing is raised for it.
    """
    if not data_root:
        return EngineGraph()
    problems: list[str] = []
    root = os.path.realpath(data_root)
    with ExitStack() as stack:
        try:
            fd = stack.enter_context(open_path(root))
        except FileNotFoundError:
            return EngineGraph()
        except OSError as error:
            return EngineGraph(problems=(f"{root}: {error.strerror}",))
        reader = _Reader(root, fd, problems, with_parents=with_parents)
        layers = tuple(reader.read_each(_LAYERS, _LAYER_FOLDER, _read_layer))
        return EngineGraph(_read_images(reader), layers, _read_containers(reader), tuple(problems))


class _Reader:
    """Reads below an opened data root; what goes wrong is noted, and reading goes on."""

    def __init__(self, root: str, fd: int, problems: list[str], *, with_parents: bool) -> None:
        self.root = root
        self._with_parents = with_parents
        self._fd = fd
        self._problems = problems

    def note(self, shown: str, error: Exception) -> None:
        """Remember that `shown` could not be read."""
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        self._problems.append(f"{self.root}/{shown}: {why}")

    def read_each(
        self, folder: str, pattern: re.Pattern[str], read: Callable[[_Folder, re.Match[str]], _Item]
    ) -> Iterator[_Item]:
        """Yield what `read` makes of each entry of `folder` whose name fits; nothing where there is no such folder."""
        try:
            with open_path(folder, self._fd) as fd:
                for match in filter(None, map(pattern.fullmatch, sorted(_list_folder(fd)))):
                    try:
                        yield read(_Folder(fd, with_parents=self._with_parents), match)
                    except FileNotFoundError as error:
                        # A running engine removes things while we read.
                        if match[0] in _list_folder(fd):
                            self.note(f"{folder}/{match[0]}", error)
                    except (OSError, ValueError, RecursionError) as error:
                        self.note(f"{folder}/{match[0]}", error)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            self.note(folder, error)


def _list_folder(fd: int) -> list[str]:
    names = os.listdir(fd)
    if len(names) > _MAX_ENTRIES:
        msg = f"more than {_MAX_ENTRIES} entries"
        raise ValueError(msg)
    return names


class _Folder:
    """An opened folder; what is read in it is reached without following a symbolic link."""

    def __init__(self, fd: int, *, with_parents: bool) -> None:
        self._fd = fd
        self._with_parents = with_parents

    def open(self, name: str) -> _Folder:
        """Return a folder in it, to be closed by `with`."""
        return _Folder(os.open(name, FOLDER_FLAGS, dir_fd=self._fd), with_parents=self._with_parents)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def word(self, name: str, pattern: re.Pattern[str]) -> str:
        word = self._text(name, _WORD_LIMIT_BYTES).strip()
        if not pattern.fullmatch(word):
            msg = f"{name} holds {ascii(word)[:100]}, which is no id"
            raise ValueError(msg)
        return word

    def optional_word(self, name: str, pattern: re.Pattern[str]) -> str:
        with suppress(FileNotFoundError):
            return self.word(name, pattern)
        return ""

    def parent(self) -> str:
        return self.optional_word("parent", _CHAIN_ID) if self._with_parents else ""

    def record(self, name: str, kind: type[_Record], limit_bytes: int = _CONFIG_LIMIT_BYTES) -> _Record:
        return msgspec.json.decode(self._text(name, limit_bytes), type=kind)

    def _text(self, name: str, limit_bytes: int) -> str:
        return read_small(name, limit_bytes, self._fd)[0]


def _read_layer(above: _Folder, match: re.Match[str]) -> EngineLayer:
    with above.open(match[0]) as folder:
        cache_id, parent = folder.word("cache-id", _CACHE_ID), folder.parent()
    return EngineLayer(f"sha256:{match[1]}", cache_id, parent, removing=bool(match[2]))


def _read_images(reader: _Reader) -> tuple[EngineImage, ...]:
    names: dict[str, list[str]] = {}
    for found in reader.read_each(_NAMES, re.compile(r"repositories\.json"), _read_repositories):
        for references in found.repositories.values():
            for reference, image in references.items():
                names.setdefault(image, []).append(reference)

    def read_image(folder: _Folder, match: re.Match[str]) -> EngineImage:
        image = f"sha256:{match[0]}"
        diff_ids = folder.record(match[0], _ImageConfig).rootfs.diff_ids
        return EngineImage(image, tuple(sorted(names.get(image, ()))), chain_ids(diff_ids))

    return tuple(reader.read_each(_IMAGES, _DIGEST, read_image))


def _read_repositories(folder: _Folder, match: re.Match[str]) -> _Repositories:
    return folder.record(match[0], _Repositories, _NAMES_LIMIT_BYTES)


def _read_containers(reader: _Reader) -> tuple[EngineContainer, ...]:
    """Join the containers that have a configuration with those that have a thin device."""
    of_driver = {found.id: found for found in reader.read_each(_MOUNTS, _DIGEST, _read_mount)}
    configured = {found.id: found for found in reader.read_each(_CONTAINERS, _DIGEST, _read_config)}
    nothing = EngineContainer("")
    joined = {}
    for name in sorted({*of_driver, *configured}):
        mount, config = of_driver.get(name, nothing), configured.get(name, nothing)
        joined[name] = EngineContainer(name, config.name, config.image_id, mount.mount_id, mount.init_id, mount.parent)
    return tuple(joined.values())


def _read_mount(above: _Folder, match: re.Match[str]) -> EngineContainer:
    with above.open(match[0]) as folder:
        mount_id, init_id = folder.word("mount-id", _CACHE_ID), folder.optional_word("init-id", _CACHE_ID)
        parent = folder.parent()
    return EngineContainer(match[0], mount_id=mount_id, init_id=init_id, parent=parent)


def _read_config(above: _Folder, match: re.Match[str]) -> EngineContainer:
    with above.open(match[0]) as folder:
        config = folder.record("config.v2.json", _ContainerConfig)
    return EngineContainer(match[0], config.name.removeprefix("/"), config.image)

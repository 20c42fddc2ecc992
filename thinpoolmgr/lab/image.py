"""A container image of one static busybox, made in this process: no registry, no engine, no network."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Final

from thinpoolmgr.errors import UnavailableError

DEFAULT_REFERENCE: Final = "docker.io/library/lab-busybox:latest"
_APPLETS: Final = (
    "cat",
    "cp",
    "dd",
    "df",
    "echo",
    "false",
    "grep",
    "id",
    "ls",
    "mkdir",
    "mount",
    "rm",
    "sh",
    "sha256sum",
    "sleep",
    "sync",
    "true",
)
_FOLDERS: Final = ("bin", "dev", "etc", "proc", "root", "sys", "tmp")
_MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar"


def find_busybox() -> Path:
    """Return the host's static busybox.

    Raises:
        UnavailableError: there is none.

    """
    found = shutil.which("busybox", path="/bin:/usr/bin")
    if found is None:
        raise UnavailableError(
            "There is no static busybox to make an image from.",
            details="missing: busybox",
            resolution="apt-get install busybox-static",
        )
    return Path(found)


def layer_tar(busybox: bytes) -> bytes:
    """Return the image's file tree as a tar, which is also what `docker import` takes. The same bytes every time."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name in _FOLDERS:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        _add(tar, "bin/busybox", busybox, mode=0o755)
        for name in _APPLETS:
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
        _add(tar, "etc/passwd", b"root:x:0:0::/root:/bin/sh\n")
    return stream.getvalue()


def image_tar(busybox: bytes, reference: str = DEFAULT_REFERENCE, architecture: str = "amd64") -> bytes:
    """Return an image that both `docker load` and `ctr images import` take.

    It is an OCI image layout (for containerd) that also has Docker's own manifest.json, which points to the same blobs.
    """
    layer = layer_tar(busybox)
    config = _json(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST_TYPE,
            "config": _descriptor(_CONFIG_TYPE, config),
            "layers": [_descriptor(_LAYER_TYPE, layer)],
        }
    )
    names = {"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": reference}
    index = {"schemaVersion": 2, "manifests": [{**_descriptor(_MANIFEST_TYPE, manifest), "annotations": names}]}
    docker = [{"Config": _blob(config), "RepoTags": [reference], "Layers": [_blob(layer)]}]
    files = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json(index),
        "manifest.json": _json(docker),
        **{_blob(content): content for content in (config, manifest, layer)},
    }
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in files.items():
            _add(tar, name, content)
    return stream.getvalue()


def write_image(path: Path, reference: str = DEFAULT_REFERENCE) -> str:
    """Write the image to a file and return its reference.

    Raises:
        UnavailableError: the host has no busybox.

    """
    path.write_bytes(image_tar(find_busybox().read_bytes(), reference))
    return reference


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _blob(content: bytes) -> str:
    return f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"


def _descriptor(media_type: str, content: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}

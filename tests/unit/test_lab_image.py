"""The busybox image: what is in it, and that both engines find their way."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from thinpoolmgr.errors import UnavailableError
from thinpoolmgr.lab import image

if TYPE_CHECKING:
    from pathlib import Path

BUSYBOX = b"\x7fELF not really"


def files(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        readers = {entry.name: tar.extractfile(entry) for entry in tar if entry.isfile()}
        return {name: reader.read() for name, reader in readers.items() if reader is not None}


def parsed(content: bytes) -> dict[str, Any]:
    return {name: json.loads(data) for name, data in files(content).items() if name.endswith(".json")}


def blob(content: bytes, digest: str) -> bytes:
    found = files(content)[f"blobs/{digest.replace(':', '/')}"]
    assert f"sha256:{hashlib.sha256(found).hexdigest()}" == digest
    return found


def test_layer_holds_an_executable_busybox_and_links_to_it() -> None:
    with tarfile.open(fileobj=io.BytesIO(image.layer_tar(BUSYBOX))) as tar:
        assert tar.getmember("bin/busybox").mode == 0o755
        assert tar.getmember("bin/sh").issym()
        assert tar.getmember("bin/sh").linkname == "busybox"
        assert all(tar.getmember(name).isdir() for name in ("proc", "sys", "dev", "tmp"))


def test_image_is_the_same_bytes_every_time() -> None:
    assert image.image_tar(BUSYBOX) == image.image_tar(BUSYBOX)


def test_docker_finds_config_layer_and_tag() -> None:
    content = image.image_tar(BUSYBOX, "lab/box:1")
    (entry,) = parsed(content)["manifest.json"]
    assert entry["RepoTags"] == ["lab/box:1"]
    config = json.loads(files(content)[entry["Config"]])
    (layer,) = entry["Layers"]
    assert files(content)[layer] == image.layer_tar(BUSYBOX)
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(files(content)[layer]).hexdigest()}"]


def test_containerd_finds_manifest_config_and_layer() -> None:
    content = image.image_tar(BUSYBOX, "docker.io/lab/box:1")
    (descriptor,) = parsed(content)["index.json"]["manifests"]
    assert descriptor["annotations"]["io.containerd.image.name"] == "docker.io/lab/box:1"
    manifest = json.loads(blob(content, descriptor["digest"]))
    assert len(blob(content, manifest["config"]["digest"])) == manifest["config"]["size"]
    assert blob(content, manifest["layers"][0]["digest"]) == image.layer_tar(BUSYBOX)
    assert "oci-layout" in files(content)


def test_missing_busybox_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda *_words, **_options: None)
    with pytest.raises(UnavailableError) as caught:
        image.write_image(tmp_path / "image.tar")
    assert "busybox-static" in caught.value.resolution
    assert not any(tmp_path.iterdir())

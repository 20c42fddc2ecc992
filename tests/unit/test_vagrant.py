"""What of the Vagrant bed needs no machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import bed as bed_module
import preflight
import pytest
import run
from bed import Bed, what_failed
from machine import Machine
from preflight import (
    BedError,
    require_memory,
    require_nothing_of_others,
    require_own,
    require_own_box,
    require_plugin,
    require_programs,
    require_space,
)

ROOT = Path(__file__).resolve().parents[2]
MEMINFO = "MemTotal:       8000000 kB\nMemAvailable:   3145728 kB\n"


def test_what_failed_is_the_step_of_one_machine_without_what_the_others_say() -> None:
    said = [
        "==> one: Running provisioner: shell...",
        "    one: Debian packages: 1 s",
        "    two: provisioning of two failed in the step: Debian packages. The last lines of /var/log/x.log:",
        "    one: Python libraries: 0 s",
        "    two:     E: Unable to locate package lvm3",
        "The SSH command responded with a non-zero exit status. Vagrant",
    ]
    assert what_failed(said) == [
        "provisioning of two failed in the step: Debian packages. The last lines of /var/log/x.log:",
        "    E: Unable to locate package lvm3",
    ]


def test_what_failed_otherwise_is_what_was_said_last_without_vagrants_own_code() -> None:
    said = [*map(str, range(20)), "Progress: 12%", "", "\tfrom /usr/share/vagrant.rb:1", "the end"]
    assert what_failed(said) == ["It said last:", *map(str, range(6, 20)), "the end"]


def test_what_is_not_installed_is_named_by_its_packages() -> None:
    with pytest.raises(BedError, match=r"install --no-install-recommends a-package$"):
        require_programs({"sh": "dash", "no-such-program": "a-package"})


def test_a_missing_plugin_is_named() -> None:
    require_plugin("vagrant-libvirt (0.11.2, system)\n")
    with pytest.raises(BedError, match="apt-get install --no-install-recommends vagrant-libvirt"):
        require_plugin("vagrant-vbguest (0.30.0)\n")


def test_too_little_room_is_refused_with_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_space(tmp_path)
    monkeypatch.setattr(preflight, "FREE_GIB", 1 << 30)
    with pytest.raises(BedError, match=r"has \d+\.\d GiB free, and the machines need 1073741824 GiB"):
        require_space(tmp_path)


def test_too_little_memory_is_refused_with_both_numbers() -> None:
    require_memory(2, 1024, MEMINFO)
    with pytest.raises(BedError, match="3072 MiB of memory are available, and 3 machines at a time need 3840 MiB"):
        require_memory(3, 1024, MEMINFO)


def test_a_folder_that_is_another_ones_is_not_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, box = tmp_path / "home", tmp_path / "home/x.box"
    require_own(folder)
    folder.mkdir()
    box.touch()
    require_own(folder)
    require_own_box(box)
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    for name in ("link", "dangling", "home/x.box"):
        with pytest.raises(BedError, match="not a folder of this user's"):
            require_own(tmp_path / name)
    monkeypatch.setattr("os.geteuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(BedError, match="not a folder of this user's"):
        require_own(folder)


def test_a_box_that_another_one_can_change_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = tmp_path / "x.box"
    box.touch()
    require_own_box(box)
    monkeypatch.setattr(Path, "lstat", lambda _path: os.stat_result((0o100644, 0, 0, 1, 4711, 0, 0, 0, 0, 0)))
    with pytest.raises(BedError, match="somebody else"):
        require_own_box(box)


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("qemu/thinpoolmgr-solo.xml", False),
        ("qemu/networks/default.xml", False),
        ("qemu/mail.xml", True),
        ("qemu/networks/autostart/default.xml", True),
        ("storage/autostart/default.xml", True),
    ],
)
def test_no_libvirt_is_started_that_would_start_what_is_another_ones(
    tmp_path: Path, name: str, *, refused: bool
) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.touch()
    if refused:
        with pytest.raises(BedError, match="systemctl start libvirtd"):
            require_nothing_of_others(tmp_path)
    else:
        require_nothing_of_others(tmp_path)


@pytest.fixture
def bed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bed:
    """A bed in whose libvirt each machine is there; a real one is never asked, whatever is wrong with the code."""
    monkeypatch.setattr(bed_module, "HOME", tmp_path)
    monkeypatch.setattr(Machine, "exists", lambda _machine: True)
    for name in ("_virsh", "_destroy_machines", "_start_own", "vagrant"):
        monkeypatch.setattr(Bed, name, lambda *_: None)
    return Bed()


@pytest.mark.parametrize(
    ("noted", "refusal"),
    [
        ({}, "was not made for the stories"),
        ({"solo": "/another/clone/vagrant"}, "was made in /another/clone/vagrant"),
        ({"solo": str(ROOT / "vagrant")}, ""),
    ],
)
def test_a_machine_that_was_not_made_for_the_stories_is_left_alone(
    bed: Bed, noted: dict[str, str], refusal: str
) -> None:
    bed._made.write_text(json.dumps(noted), "utf-8")
    if refusal:
        with pytest.raises(BedError, match=refusal):
            bed._require_ours("solo")
    else:
        bed._require_ours("solo")


def test_machines_are_not_taken_away_under_a_run(bed: Bed) -> None:
    bed._take_lock()
    with pytest.raises(BedError, match="under way"):
        Bed().stop()


def test_machines_whose_libvirt_does_not_answer_are_not_said_to_be_gone(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed._made.write_text(json.dumps({"solo": str(ROOT / "vagrant")}), "utf-8")
    monkeypatch.setattr(bed, "_answers", lambda: False)
    with pytest.raises(BedError, match="No libvirt answers, and it has solo"):
        bed.stop()
    assert bed._machines()


def test_what_was_left_by_a_libvirt_of_our_own_that_died_is_taken_away_through_another(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    bed._noted.write_text(json.dumps({"pids": {"libvirtd": [1 << 22, 7]}, "made": []}), "utf-8")
    bed._made.write_text(json.dumps({"solo": str(ROOT / "vagrant")}), "utf-8")
    monkeypatch.setattr(bed, "_start_own", lambda: done.append("started"))
    monkeypatch.setattr(bed, "_answers", lambda: True)
    monkeypatch.setattr(bed, "_destroy_machines", done.extend)
    bed.stop()
    assert (done, bed._made.exists()) == (["started", "solo"], False)


def test_the_document_for_a_ci_has_stories_of_earlier_runs_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "JUNIT", tmp_path / "junit.xml")
    run._write_junit(
        [
            run.Told("a", "passed before", 2.0),
            run.Told("b", "FAILED", 1.0, "Traceback\nAssertionError: \x1b[1mno\x00 pool"),
            run.Told("c", "not told", 0.0),
        ]
    )
    suite = ET.parse(tmp_path / "junit.xml").getroot()  # noqa: S314 - written here
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    assert [[child.tag for child in case] for case in suite] == [[], ["failure"], ["skipped"]]


def test_stories_that_passed_count_for_the_same_checkout_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "PASSED", tmp_path / "passed.json")
    assert run._read_passed("now") == {}
    run.PASSED.write_text('{"checkout": "now", "passed": {"a": 2.0}}', "utf-8")
    assert run._read_passed("now") == {"a": 2.0}
    assert run._read_passed("later") == {}


@pytest.fixture
def provision(tmp_path: Path) -> Path:
    """The steps of the script, which writes its log here; its names are those of a machine that fails."""
    text = (ROOT / "vagrant/provision.sh").read_text("utf-8")
    script = tmp_path / "provision.sh"
    script.write_text(re.sub(r"^log=.*", f"log={tmp_path}/log", text.partition("\nstep ")[0], flags=re.MULTILINE))
    return script


def test_provisioning_that_fails_says_which_step_where_and_the_logs_last_lines(provision: Path) -> None:
    with provision.open("a", encoding="utf-8") as script:
        script.write(
            '\nbreak_it() { seq 30; return 1; }\nstep "fine" true\nstep "bad luck" break_it\nstep "never" true\n'
        )
    done = subprocess.run(["bash", provision, "solo"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    first, second, *last = done.stdout.splitlines()
    assert first == "fine: 0 s"
    assert second.startswith("provisioning of solo failed in the step: bad luck. The last lines of ")
    assert last == [f"    {number}" for number in range(16, 31)]

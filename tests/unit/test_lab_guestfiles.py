"""What the guest is given: its command line, mounts, environment, files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import thinpoolmgr
from thinpoolmgr.errors import UsageError
from thinpoolmgr.lab import guestfiles
from thinpoolmgr.lab.guestfiles import GuestDisk, GuestJob

FOLDER = Path("/var/tmp/thinpoolmgr-lab-1-x")
CHECKOUT = Path("/srv/checkout")
PARENT = Path(thinpoolmgr.__file__).resolve().parent.parent
TREE = Path("/srv/tree")


def job(**options: object) -> GuestJob:
    return GuestJob(**{"command": ("true",), **options})  # type: ignore[arg-type]


def test_kernel_command_names_folder_memory_and_nothing_of_the_home() -> None:
    command = guestfiles.kernel_command(job(memory_mb=768), FOLDER)
    assert command[0] == "linux.uml"
    assert {"mem=768M", f"rootflags={FOLDER}", f"uml_dir={FOLDER}/uml", "init=/init", "con0=null,fd:1"} <= set(command)
    assert not any(word.startswith(("con1=", "ubd")) for word in command)


def test_kernel_command_has_no_word_with_a_blank() -> None:
    command = guestfiles.kernel_command(job(tree=Path("/a tree"), command=("echo", "a b")), FOLDER)
    assert not any(" " in word for word in command)


def test_kernel_command_gives_disks_in_order_with_serials() -> None:
    disks = (GuestDisk(image=Path("/a"), serial="S1"), GuestDisk(image=Path("/b")))
    assert guestfiles.kernel_command(job(disks=disks), FOLDER)[-2:] == ("ubd0=/a,,S1", "ubd1=/b,,")


def test_kernel_command_puts_the_terminal_on_the_second_console() -> None:
    assert "con1=fd:7,fd:8" in guestfiles.kernel_command(job(), FOLDER, terminal=(7, 8))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"tree": TREE}, (("ro", CHECKOUT),)),
        ({"tree": TREE, "read_only": (Path("/srv/a"),)}, (("ro", Path("/srv/a")), ("ro", CHECKOUT))),
        ({"tree": TREE, "writable": (CHECKOUT,)}, (("rw", CHECKOUT),)),
        ({"read_only": (Path("/srv/a"),)}, ()),
        ({"read_only": (Path("/tmp/a"),)}, (("ro", Path("/tmp/a")),)),
        ({"writable": (Path("/srv/a"),)}, (("rw", Path("/srv/a")),)),
    ],
)
def test_mounts_are_only_those_the_root_does_not_show(
    options: dict[str, object], expected: tuple[tuple[str, Path], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guestfiles, "_PACKAGE", CHECKOUT / "thinpoolmgr")
    monkeypatch.setattr(sys, "prefix", "/opt/python")
    monkeypatch.setattr(sys, "base_prefix", "/opt/python")
    assert sorted(guestfiles.mounts(job(**options))) == sorted(expected)


def test_outer_folders_are_mounted_before_inner_ones() -> None:
    paths = [path for _, path in guestfiles.mounts(job(tree=TREE, writable=(Path("/s/a/b"), Path("/s/a"))))]
    assert paths.index(Path("/s/a")) < paths.index(Path("/s/a/b"))


@pytest.mark.parametrize("name", ["/srv/a,b", "/srv/a\nb"])
def test_path_that_cannot_be_mounted_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        guestfiles.mounts(job(tree=TREE, read_only=(Path(name),)))


def test_host_root_runs_the_calling_interpreter() -> None:
    assert guestfiles.environment(job())["PATH"].startswith(f"{sys.prefix}/bin:")
    assert f"exec {guestfiles.interpreter()} -m thinpoolmgr" in guestfiles.job_files(job())["wrapper"]


def test_made_root_runs_its_own_interpreter_with_its_own_libraries() -> None:
    assert guestfiles.environment(job(tree=TREE))["PYTHONPATH"] == f"/opt/thinpoolmgr:{PARENT}"
    assert "exec /usr/bin/python3 -m thinpoolmgr" in guestfiles.job_files(job(tree=TREE))["wrapper"]


def test_nothing_of_the_callers_environment_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_CALLER", "x")
    assert "SECRET_OF_THE_CALLER" not in guestfiles.job_files(job())["env"]


def test_words_for_the_guests_shell_are_quoted() -> None:
    files = guestfiles.job_files(job(command=("echo", "a b; reboot"), environment={"A": "$(reboot)"}))
    assert files["command"] == "exec echo 'a b; reboot'\n"
    assert "export A='$(reboot)'\n" in files["env"]


def test_systemd_boots_our_target_and_nothing_else() -> None:
    assert "systemd.unit=lab.target" in guestfiles.kernel_command(job(systemd=True), FOLDER)
    assert "systemd" in guestfiles.job_files(job(systemd=True))
    assert "systemd" not in guestfiles.job_files(job())
    assert not any("systemd" in word for word in guestfiles.kernel_command(job(), FOLDER))


def test_only_a_copy_of_the_host_is_masked() -> None:
    assert "var/lib/docker\n" in guestfiles.job_files(job())["masks"]
    assert not guestfiles.job_files(job(tree=TREE))["masks"]


def test_script_runs_itself_or_through_a_shell(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("true\n", encoding="utf-8")
    assert guestfiles.script_command(script, ["-x"]) == ("/bin/sh", str(script), "-x")
    script.chmod(0o755)
    assert guestfiles.script_command(script) == (str(script),)


def test_folder_is_complete_and_has_no_exit_code(tmp_path: Path) -> None:
    busybox = tmp_path / "bb"
    busybox.write_bytes(b"elf")
    folder = tmp_path / "job"
    folder.mkdir()
    guestfiles.write_files(job(), folder, busybox)
    assert (folder / "init").stat().st_mode & 0o111
    assert (folder / "init").read_text(encoding="utf-8").startswith("#!/busybox sh\n")
    assert (folder / "stage2").is_file()
    assert not (folder / "rc").exists()

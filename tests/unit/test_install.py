"""What `make install` puts where, and what no unit may have."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from thinpoolmgr.cli.main import main

CHECKOUT = Path(__file__).parents[2]
UNITS = sorted((CHECKOUT / "systemd").glob("*.service"))
# systemd 252, src/core/execute.c: exec_needs_mount_namespace
MAKES_MOUNT_NAMESPACE = (
    *("BindPaths", "BindReadOnlyPaths", "DynamicUser", "ExecPaths", "InaccessiblePaths", "IPCNamespacePath"),
    *("LogNamespace", "MountFlags", "NoExecPaths", "PrivateDevices", "PrivateIPC", "PrivateTmp", "ProcSubset"),
    *("ProtectControlGroups", "ProtectHome", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables"),
    *("ProtectProc", "ProtectSystem", "ReadOnlyPaths", "ReadWritePaths", "RootDirectory", "RootImage"),
    *("TemporaryFileSystem", "MountImages", "ExtensionImages", "ExtensionDirectories"),
)


def settings(path: Path) -> list[tuple[str, str]]:
    lines = [line for line in path.read_text("utf-8").splitlines() if line[:1] not in {"", "#", "["}]
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


def install(prefix: str, destination: Path) -> dict[str, Path]:
    command = ["make", "--no-print-directory", "install", f"PREFIX={prefix}", f"DESTDIR={destination}"]
    subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True)
    return {str(path.relative_to(destination)): path for path in destination.rglob("*") if path.is_file()}


def test_everything_goes_where_it_is_looked_for(tmp_path: Path) -> None:
    lib = "usr/local/lib"
    found = install("/usr/local", tmp_path)
    assert sorted(found) == [
        f"{lib}/systemd/catalog/thinpoolmgr.catalog",
        f"{lib}/systemd/system/containerd.service.d/thinpoolmgr.conf",
        f"{lib}/systemd/system/docker.service.d/thinpoolmgr.conf",
        f"{lib}/systemd/system/thinpoolmgr-apply.service",
        f"{lib}/systemd/system/thinpoolmgr-metrics.service",
        f"{lib}/systemd/system/thinpoolmgr-metrics.timer",
        f"{lib}/systemd/system/thinpoolmgr-monitor.service",
        f"{lib}/tmpfiles.d/thinpoolmgr.conf",
        f"{lib}/udev/rules.d/12-thinpoolmgr-dm.rules",
        f"{lib}/udev/rules.d/71-thinpoolmgr-disks.rules",
        "usr/local/share/bash-completion/completions/thinpoolmgr",
        "usr/local/share/fish/vendor_completions.d/thinpoolmgr.fish",
        "usr/local/share/man/man1/thinpoolmgr.1",
        "usr/local/share/zsh/site-functions/_thinpoolmgr",
    ]
    assert {oct(path.stat().st_mode & 0o777) for path in found.values()} == {"0o644"}


@pytest.mark.parametrize("prefix", ["/usr", "/opt/pools"])
def test_units_run_the_program_where_it_is(tmp_path: Path, prefix: str) -> None:
    units = [path for name, path in install(prefix, tmp_path).items() if name.endswith(".service")]
    programs = {
        value.split()[0]
        for unit in units
        for name, value in settings(unit)
        if (name, "thinpool" in value) == ("ExecStart", True)
    }
    assert (len(units), programs) == (3, {f"{prefix}/bin/thinpoolmgr"})


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_no_unit_has_a_mount_namespace(unit: Path) -> None:
    """A copy of the mount table pins what Docker has mounted: the device of a container that is gone stays busy."""
    has = dict(settings(unit))
    assert not set(MAKES_MOUNT_NAMESPACE) & set(has)
    # systemd 254 makes one for a network namespace, too, unless told not to.
    assert has.get("PrivateNetwork", "no") == "no" or has["PrivateMounts"] == "no"


def test_the_unit_before_engines_runs_a_command_that_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = [v for n, v in settings(CHECKOUT / "systemd/thinpoolmgr-apply.service") if n == "ExecStart"]
    with pytest.raises(SystemExit) as ended:
        main(("--simulate", "--config", "/dev/null/none", *command.split()[1:]))
    # The configuration is what is missing, and the command line is right.
    assert (ended.value.code, "/dev/null/none" in capsys.readouterr().err) == (78, True)


def test_both_engines_wait_for_it() -> None:
    for engine in ("docker", "containerd"):
        has = settings(CHECKOUT / f"systemd/{engine}.service.d/thinpoolmgr.conf")
        assert ("Requires", "thinpoolmgr-apply.service") in has
        assert ("After", "thinpoolmgr-apply.service") in has
        assert ("AssertPathExists", "|!/run/thinpoolmgr/not-ready") in has
        assert ("AssertPathExistsGlob", "|!/etc/thinpoolmgr/{thinpoolmgr.toml,conf.d/*.toml}") in has


@pytest.mark.parametrize("prefix", ["/opt/a b", "/opt/a&b"])
def test_a_prefix_that_units_cannot_carry_is_refused(tmp_path: Path, prefix: str) -> None:
    ended = subprocess.run(
        ["sh", "packaging/install.sh", prefix, str(tmp_path)], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr.count("\n"), list(tmp_path.iterdir())) == (2, 1, [])


def test_no_hand_stops_what_engines_require_and_the_monitor_waits_for_no_run() -> None:
    assert ("RefuseManualStop", "yes") in settings(CHECKOUT / "systemd/thinpoolmgr-apply.service")
    assert "thinpoolmgr-apply" not in dict(settings(CHECKOUT / "systemd/thinpoolmgr-monitor.service"))["After"]


@pytest.mark.parametrize("unit", ["monitor", "apply"])
def test_lvm_is_not_killed_in_the_middle_of_a_write(unit: str) -> None:
    has = settings(CHECKOUT / f"systemd/thinpoolmgr-{unit}.service")
    # As a list: a second line further down would count instead.
    assert [value for name, value in has if name in {"KillMode", "SendSIGKILL"}] == ["process", "no"]

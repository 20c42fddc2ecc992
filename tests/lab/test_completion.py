"""Tab in a real bash, with the script that is shipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lab_tool import Tool

PACKAGING = Path(__file__).parents[2] / "packaging/completion"
# What Tab does: bash fills in the words, calls the function that is registered for the command, and reads COMPREPLY.
PRESS_TAB = """
set -u
source "$1"
[[ $(complete -p thinpoolmgr) == *" -F _thinpoolmgr_completion thinpoolmgr" ]] || exit 9
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_thinpoolmgr_completion "$1"
printf '%s\\n' "${COMPREPLY[@]}"
"""
LOADED = """
import atexit, sys
atexit.register(lambda: print(sorted({"pyudev", "sh", "tenacity"} & set(sys.modules)), file=sys.stderr))
from thinpoolmgr.cli.main import main
main()
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return a search path on which the command is, whose name is what the script calls."""
    command = tmp_path / "bin/thinpoolmgr"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m thinpoolmgr "$@"\n', "utf-8")
    command.chmod(0o755)
    return f"{command.parent}:{os.environ['PATH']}"


def press_tab(path: str, *words: str) -> list[str]:
    argv = ("bash", "--norc", "-c", PRESS_TAB, "bash", str(PACKAGING / "thinpoolmgr.bash"), *words)
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path})
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_bash_completes_commands_pools_and_allowances(path: str, tool: Tool) -> None:
    tool.configure("/dev/nowhere", name="scratch")
    config = ("--config", str(tool.config))
    assert press_tab(path, "thinpoolmgr", "de") == ["deactivate", "destroy"]
    assert press_tab(path, "thinpoolmgr", *config, "destroy", "") == ["scratch"]
    assert press_tab(path, "thinpoolmgr", "destroy", *config, "nothing") == []
    assert press_tab(path, "thinpoolmgr", "apply", "--allow", "outage,") == ["outage,destroy"]
    tool.config.write_text("= 1", "utf-8")
    assert press_tab(path, "thinpoolmgr", *config, "destroy", "") == []


def test_the_command_line_writes_the_script_that_is_shipped() -> None:
    done = subprocess.run(
        (sys.executable, "-m", "thinpoolmgr"),
        capture_output=True,
        check=True,
        env={**os.environ, "_THINPOOLMGR_COMPLETE": "bash_source"},
    )
    assert done.stdout == (PACKAGING / "thinpoolmgr.bash").read_bytes()


def test_tab_does_not_wait_for_what_only_a_run_needs(tool: Tool) -> None:
    tool.configure("/dev/nowhere")
    line = f"thinpoolmgr --config {tool.config} destroy "
    variables = {"_THINPOOLMGR_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": "4"}
    done = subprocess.run(
        (sys.executable, "-c", LOADED), capture_output=True, text=True, check=True, env={**os.environ, **variables}
    )
    assert (done.stdout.strip(), done.stderr.strip()) == ("plain,docker", "[]")

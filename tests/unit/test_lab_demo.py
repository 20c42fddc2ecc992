"""The demo: what it shows and when it fails, without a guest."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from thinpoolmgr.config import load_config
from thinpoolmgr.lab import demo
from thinpoolmgr.lab.demo_stages import DemoError, check_outcome, configuration, heading
from thinpoolmgr.lab.guest import GuestJob, GuestResult


def test_heading_fills_the_screen() -> None:
    assert heading(2, "Plan", 30) == "== 2/9 Plan =================="
    assert len(heading(2, "Plan", 100)) == 100


def test_headings_longer_than_the_screen_stay_whole() -> None:
    assert heading(2, "A long title", 10) == "== 2/9 A long title =="


def test_expected_exit_code_and_words_pass_across_line_breaks() -> None:
    check_outcome("plan", (2, "pool docker\n   healthy\r\n"), 2, ("docker healthy",))


@pytest.mark.parametrize(
    ("outcome", "evidence"),
    [((1, "Done"), "exit code 1, expected 0"), ((0, "nothing"), "missing: Done")],
)
def test_anything_else_ends_the_demo(outcome: tuple[int, str], evidence: str) -> None:
    with pytest.raises(DemoError) as caught:
        check_outcome("apply", outcome, 0, ("Done",))
    assert evidence in caught.value.details
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("with_engine", [True, False])
def test_configuration_shown_is_valid(tmp_path: Path, *, with_engine: bool) -> None:
    path = tmp_path / "demo.toml"
    path.write_text(configuration("/dev/loop7", with_engine=with_engine), encoding="utf-8")
    desired = load_config(path).desired
    assert desired.pools[0].config.devices == ("/dev/loop7",)
    assert bool(desired.engines) == with_engine


def test_ending_says_how_it_went_and_how_long_it_took() -> None:
    assert "as they should, in 2 min 05 s" in demo.ending(0, 125.2)
    assert "FAILED (exit code 1)" in demo.ending(1, 3)


@pytest.mark.parametrize("code", [0, 1])
def test_exit_code_is_the_guests(
    code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs: list[GuestJob] = []

    def run(job: GuestJob) -> GuestResult:
        jobs.append(job)
        return GuestResult(code, 2.0, 3.0)

    monkeypatch.setattr(demo, "run_guest", run)
    monkeypatch.setattr(demo, "ensure_root", lambda: Path("/cache/root"))
    assert demo.run_demo() == code
    assert jobs[0].tree == Path("/cache/root")
    assert ("FAILED" in capsys.readouterr().out) == bool(code)


def test_guest_learns_width_and_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "screen")
    monkeypatch.setenv("NO_COLOR", "1")
    assert demo._terminal_environment() == {"COLUMNS": "100"}
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert demo._terminal_environment() == {"COLUMNS": "100", "LAB_DEMO_TTY": "1", "TERM": "screen", "NO_COLOR": "1"}

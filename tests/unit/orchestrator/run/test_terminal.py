"""What the progress of a run says, and when it will be over."""

import io

import pytest
from rich.console import Console

from orchestrator.run import terminal
from orchestrator.run.terminal import ImageProgress, clock, counting_all, scores_table, training_note
from orchestrator.run.time_left import TimeLeft
from tests.configs import tiny


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock: what it shows stands first."""
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    return now


def test_lines_say_what_is_waited_for_and_when_all_is_over(tmp_path: object, passes: list[float]) -> None:
    out = io.StringIO()
    config = tiny(tmp_path, "data", train={"images": 1000}, evaluation={"images": 100})  # type: ignore[arg-type]
    with (
        counting_all(TimeLeft(config, real_images=500)),
        ImageProgress(
            Console(file=out, width=200), "train", 1000, waits_for="2 workers to start"
        ) as progress,
    ):
        passes[0] += 20
        progress.update(10)
        passes[0] += 1
        progress.update(20, training_note({"loss/total": 0.5, "train/gradient_norm": 0.25, "train/mfu": 0.1}))
        passes[0] += 5
        progress.update(70)
        passes[0] += 6
        progress.update(130)
    lines = out.getvalue().splitlines()
    # 98 s of training; 2 times 10 s for processes to start; 600 images at 180/s; 100 images of 4 calls each.
    assert lines[0] == "train: waiting for 2 workers to start"
    assert lines[1] == (
        "train 20/1000 images (2%), 2:08 left in all, 10 images/s, loss 0.5000, gradient norm 0.25, MFU 10.0%"
    )
    assert len(lines) == 3 and lines[2].startswith("train 130/1000 images (13%)")


def test_after_going_back_the_rate_begins_anew(passes: list[float]) -> None:
    out = io.StringIO()
    with ImageProgress(Console(file=out, width=200), "train", 100) as progress:
        for done in (10, 50, 20, 30):
            passes[0] += 10
            progress.update(done)
    assert out.getvalue().splitlines()[-1] == "train 30/100 images (30%), 1:10 left, 1 images/s"


def test_a_terminal_has_one_line_however_narrow(passes: list[float]) -> None:
    out = io.StringIO()
    with ImageProgress(Console(file=out, width=60, force_terminal=True), "train", 100) as progress:
        progress.update(10)
        passes[0] += 1
        progress.update(20, "a note that does not fit into what is left of the line")
    assert "0:08 left" in out.getvalue()
    assert out.getvalue().count("\n") == 1


def test_names_and_values_of_scores_are_whole_in_a_narrow_terminal() -> None:
    out, name = io.StringIO(), "fd_infinity1k_efficientnet_lite0_ema"
    entry = {"value": 45.27, "error": 1.5, "meaning": "what it would be with infinitely many samples"}
    Console(file=out, width=80).print(scores_table({"metrics": {name: entry}}, "title"))
    assert name in out.getvalue() and "45.27 ± 1.5" in out.getvalue() and "samples" in out.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(-1, "0:00"), (59.6, "1:00"), (3725, "1:02:05")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text

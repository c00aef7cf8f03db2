"""What a sweep shows of its trials while they run."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from orchestrator import storage
from orchestrator.sweeps.live_table import LiveTable
from orchestrator.tracking.journal import JOURNAL_FILE, Journal
from tests.configs import tiny


def table(folder: Path, results: list[Any]) -> tuple[LiveTable, io.StringIO, Any]:
    """A table of one trial of 64 images, where it prints, and the trial as Tune tells of it."""
    out = io.StringIO()
    shown = LiveTable(
        {"one": tiny(folder, "data")}, Console(file=out, width=200), lambda names: results.append(names)
    )
    return shown, out, SimpleNamespace(config={"cell": "one"})


def test_a_running_trial_shows_images_loss_and_its_last_score(tmp_path: Path) -> None:
    shown, out, trial = table(tmp_path, [])
    directory = shown._configs["one"].directory
    Path(directory).mkdir(parents=True)
    assert shown._look("one") == {}
    journal = Journal(Path(directory) / JOURNAL_FILE)
    for step in (16, 48):
        journal.append("metrics", step=step, values={"loss/total": 1 / step})
    journal.write()
    score = {"fd8_efficientnet_lite0_ema": {"value": 12.5}}
    storage.write_bytes(f"{directory}/scores/32.json", json.dumps(score).encode())
    found = shown._look("one")
    assert found == {"images_seen": 48, "loss": 1 / 48, "scored_at": 32, "distance": 12.5}
    shown.on_trial_start(0, [], trial)
    shown._note(trial, **found)
    line = out.getvalue().splitlines()[-1]
    assert line.startswith(
        "one, running, images 48 of 64, loss 0.0208, distance 12.5 at 32, minutes 0.0, about"
    )
    assert line.endswith("left for all trials")


def test_what_is_known_is_written_whenever_a_trial_ends(tmp_path: Path) -> None:
    results: list[Any] = []
    shown, out, trial = table(tmp_path, results)
    shown.on_trial_start(0, [], trial)
    shown.on_trial_result(0, [], trial, {"images_seen": 64, "loss": 0.5, "distance": 3.0})
    assert results == []
    shown.on_trial_complete(0, [], trial)
    assert results == [["one"]]
    last = out.getvalue().splitlines()[-1]
    assert last.startswith("one, finished, images 64 of 64, loss 0.5000, distance 3, minutes")
    assert "left" not in last

"""The benchmark of how things grow measures every plane, at sizes that take seconds."""

import io

import pytest
from rich.console import Console

from orchestrator.benchmarks.scale import checkpoints, control, data, journal, parts, sharding, sweep
from orchestrator.benchmarks.scale.planes import PLANES, measure_scale

pytestmark = pytest.mark.usefixtures("ray_session")


def measured(planes: str) -> set[str]:
    """The quantities that the planes measure; all of them are in the printed tables."""
    out = io.StringIO()
    rows = measure_scale(planes, Console(file=out, width=250))
    assert all(row.what in out.getvalue() and row.exponent is not None for row in rows)
    assert all(value >= 0 for row in rows for value in row.values.values())
    return {row.what for row in rows}


@pytest.mark.long
def test_planes_without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "ROWS", (16_384, 32_768))
    for module in (data, checkpoints):
        monkeypatch.setattr(module, "RANKS", (1, 4))
    monkeypatch.setattr(data, "LANES", 16)
    monkeypatch.setattr(data, "WINDOW", 64)
    monkeypatch.setattr(data, "BATCH_SIZE", 16)
    monkeypatch.setattr(journal, "LOGS", (2, 4))
    monkeypatch.setattr(journal, "COPIED_LOGS", (1, 2))
    monkeypatch.setattr(checkpoints, "STATE_BYTES", 1 << 12)
    monkeypatch.setattr(checkpoints, "PLANNED_RANKS", (1, 2))
    monkeypatch.setattr(parts, "IMAGES", (100, 200))
    found = measured("data,journal,checkpoints,parts")
    assert {
        "plan of each further window, ms", "what the controller sends to all ranks, MB", "copied anew, s",
        "kB that S3 is sent for one more log", "listing and all checksums, s", "parts are collected, s",
    } <= found  # fmt: skip


@pytest.mark.faults
def test_planes_with_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "TRIALS", (2, 4))
    monkeypatch.setattr(sweep, "TUNED_TRIALS", (1, 2))
    monkeypatch.setattr(sweep, "SECONDS", 0.1)
    monkeypatch.setattr(control, "WORKERS", (1, 2))
    monkeypatch.setattr(control, "CALLS", (2, 4))
    monkeypatch.setattr(control, "ACTORS", 1)
    monkeypatch.setattr(control, "IMAGES", (100, 200))
    monkeypatch.setattr(sharding, "RANKS", (8, 16))
    monkeypatch.setattr(sharding, "DEPTH", 1)
    found = measured("sweep,sharding,control")
    assert {
        "a trial's part of the overhead, s", "messages to the tracker a step", "each range after that, ms",
        "hybrid: MB of all_reduce a step",
    } <= found  # fmt: skip


def test_every_plane_has_a_module() -> None:
    assert PLANES.keys() == {
        module.__name__.rpartition(".")[2]
        for module in (data, journal, checkpoints, parts, sweep, sharding, control)
    }

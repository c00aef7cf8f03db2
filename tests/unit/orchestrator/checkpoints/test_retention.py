"""Which checkpoints stay: the newest, one in so many images, and the best."""

import json
import math
from pathlib import Path

import pytest

from orchestrator.checkpoints.retention import to_keep, warn_of_unknown_metric
from orchestrator.checkpoints.selection import Checkpoint, Marker, marked
from orchestrator.config.training import TrainConfig


def write(folder: Path, losses: dict[int, float]) -> list[Checkpoint]:
    for images_seen, loss in losses.items():
        checkpoint = Checkpoint(str(folder / "checkpoints" / str(images_seen)), images_seen)
        Marker(files={}, metrics={"loss": loss}).write(checkpoint)
    return marked(str(folder))


def kept(checkpoints: list[Checkpoint], **options: object) -> list[int]:
    config = TrainConfig(images=1, checkpoint_every_images=10, preview_every_images=0, **options)  # type: ignore[arg-type]
    return [checkpoint.images_seen for checkpoint in to_keep(checkpoints, config)]


def test_the_newest_one_in_so_many_images_and_the_best_stay(tmp_path: Path) -> None:
    # Batches of 8: a checkpoint lies at or just past its multiple of 10.
    losses = {16: 5.0, 24: 1.0, 32: 3.0, 40: 2.0, 56: 4.0, 64: 6.0}
    found = write(tmp_path, losses)
    assert kept(found, keep_checkpoints=2) == [56, 64]
    assert kept(found, keep_checkpoints=1, keep_every_images=20) == [24, 40, 64]
    assert kept(found, keep_checkpoints=1, keep_best_by="loss") == [24, 64]
    assert kept(found, keep_checkpoints=1, keep_best_by="fid50k") == [64]
    assert kept(found, keep_checkpoints=10) == sorted(losses)


def test_a_loss_that_is_not_a_number_is_never_the_best(tmp_path: Path) -> None:
    found = write(tmp_path, {16: math.nan, 24: 2.0, 32: math.nan, 40: 3.0})
    assert kept(found, keep_checkpoints=1, keep_best_by="loss") == [24, 40]
    only = write(tmp_path / "other", {16: math.nan, 24: math.nan})
    assert kept(only, keep_checkpoints=1, keep_best_by="loss") == [24]


def test_a_metric_that_is_not_logged_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    logged = ["loss/total", "held_out/loss/total", "train/mfu", "time/data_fraction"]
    warn_of_unknown_metric(TrainConfig(images=1, keep_best_by="loss/held_out"), logged)
    assert "loss/held_out, which is not logged. Did you mean" in caplog.text
    caplog.clear()
    warn_of_unknown_metric(TrainConfig(images=1, keep_best_by="held_out/loss/total"), logged)
    warn_of_unknown_metric(TrainConfig(images=1), logged)
    assert not caplog.text


def test_a_folder_without_a_marker_is_not_counted_among_the_newest(tmp_path: Path) -> None:
    write(tmp_path, {16: 1.0, 24: 1.0})
    (tmp_path / "checkpoints" / "32").mkdir()
    assert [checkpoint.images_seen for checkpoint in marked(str(tmp_path))] == [16, 24]


def test_the_marker_says_what_it_was_written_with(tmp_path: Path) -> None:
    (checkpoint,) = write(tmp_path, {16: 1.5})
    assert checkpoint.marker.metrics == {"loss": 1.5}
    assert json.loads((Path(checkpoint.path) / "COMPLETE.json").read_text())["images_seen"] == 16

"""Background work: what is late leaves out the cheapest, what fails is noted."""

import logging
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from orchestrator.checkpoints.outputs import failure_of
from orchestrator.checkpoints.selection import Checkpoint
from orchestrator.run.background import Background
from tests.checkpoints import checkpoint, settings


def test_late_work_leaves_out_previews_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings(tmp_path, keep_checkpoints=1, preview_every_images=16, score_every_images=16)
    background = Background(config, MagicMock(), MagicMock())
    made: list[int] = []
    background._preview = lambda one: made.append(one.images_seen)  # type: ignore[method-assign]
    checkpoints = [checkpoint(config, images_seen) for images_seen in (16, 32, 48)]
    with caplog.at_level(logging.WARNING):
        for one in checkpoints:
            background.preview(one)
    assert made == [48]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "2 checkpoints behind" in caplog.text


def test_a_failure_is_noted_until_the_work_is_done(tmp_path: Path) -> None:
    config = settings(tmp_path, keep_checkpoints=1, score_every_images=16)
    background, one = Background(config, MagicMock(), MagicMock()), checkpoint(config, 16)

    def fail(checkpoint: Checkpoint) -> None:
        raise OSError("the store is gone")

    background._score = fail  # type: ignore[method-assign]
    background.score(one)
    note = Path(failure_of(config.directory, "score", 16))
    assert note.read_text() == "OSError: the store is gone"
    background._score = lambda one: None  # type: ignore[method-assign]
    background.score(one)
    assert not note.exists()

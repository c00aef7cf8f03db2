"""A checkpoint stays until its exports and scores are made; previews hold nothing up."""

from pathlib import Path

from orchestrator.checkpoints.outputs import failure_of, file_of, holds, wanted
from orchestrator.checkpoints.retention import prune
from orchestrator.checkpoints.selection import marked
from orchestrator.config.schema import ExperimentConfig
from tests.checkpoints import checkpoint, settings


def there(config: ExperimentConfig) -> list[int]:
    return [found.images_seen for found in marked(config.directory)]


def write(path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("")


def test_what_is_to_be_scored_or_exported_stays_until_it_is(tmp_path: Path) -> None:
    config = settings(
        tmp_path, keep_checkpoints=1, score_every_images=32, export_every_images=64, preview_every_images=16
    )
    for images_seen in (16, 32, 48, 64, 80):
        checkpoint(config, images_seen)
        prune(config)
    assert there(config) == [32, 64, 80]
    write(file_of(config.directory, "score", 32))
    write(file_of(config.directory, "score", 64))
    prune(config)
    assert there(config) == [64, 80]
    # Weights without their card, which comes last, are half of an export.
    write(f"{config.directory}/exports/64/config.json")
    assert holds(config, 64)
    write(f"{config.directory}/exports/64/README.md")
    prune(config)
    assert there(config) == [80]


def test_what_failed_holds_no_checkpoint(tmp_path: Path) -> None:
    config = settings(tmp_path, keep_checkpoints=1, score_every_images=16)
    checkpoint(config, 16)
    checkpoint(config, 32)
    assert holds(config, 16)
    write(failure_of(config.directory, "score", 16))
    prune(config)
    assert there(config) == [32]


def test_cadences_count_where_batches_end_past_them(tmp_path: Path) -> None:
    train = settings(tmp_path, batch_size=24, score_every_images=32, preview_every_images=16).train
    assert wanted(train, 24) == ["preview"]
    assert wanted(train, 48) == ["preview", "score"]
    assert wanted(train, 56) == ["preview"]

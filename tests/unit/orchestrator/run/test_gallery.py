"""A picture that cannot be made costs a warning, and neither the others nor the run."""

import logging
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch

from dimr_model import DiMR
from orchestrator.images import save_grid
from orchestrator.run.gallery import write_gallery
from tests.configs import tiny
from tests.datasets import write_numbered

SAMPLES = "no file"


def logged(tracker: MagicMock) -> list[str]:
    return [call.args[1] for call in tracker.log_image.remote.call_args_list] + [
        call.args[0] for call in tracker.log_artifact.remote.call_args_list
    ]


def previews(folder: Path, count: int) -> None:
    for seen in range(1, count + 1):
        images = torch.zeros((9, 1, 8, 8), dtype=torch.uint8)
        save_grid(images, str(folder / "tiny" / "previews" / f"{seen}.png"), 3)


@pytest.mark.parametrize(
    ("count", "made"),
    [
        (0, ["branches.png"]),
        (1, ["branches.png", "progress.png"]),
        (2, ["branches.png", "progress.png", "progress.webp"]),
    ],
)
def test_what_there_is_to_show_is_written_and_logged(tmp_path: Path, count: int, made: list[str]) -> None:
    config, tracker, dataset = tiny(tmp_path, "none", model={"input_size": 8}), MagicMock(), MagicMock()
    dataset.info.class_names = ("a", "b", "c")
    previews(tmp_path, count)
    write_gallery(config, dataset, DiMR(config.model).eval(), SAMPLES, 64, tracker)
    assert sorted(logged(tracker)) == made
    assert all((tmp_path / "tiny" / name).stat().st_size > 100 for name in made)


def test_what_fails_is_warned_about_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config, tracker, dataset = tiny(tmp_path, "none", model={"input_size": 8}), MagicMock(), MagicMock()
    dataset.info.class_names = ("a", "b", "c")
    previews(tmp_path, 2)
    (tmp_path / "tiny" / "previews" / "1.png").write_bytes(b"cut off")
    with caplog.at_level(logging.WARNING):
        write_gallery(config, dataset, DiMR(config.model).eval(), SAMPLES, 64, tracker)
    assert logged(tracker) == ["branches.png"]
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "There is no progress.png", "There is no progress.webp",
    ]  # fmt: skip


def test_a_network_of_latents_has_no_picture_of_branches(tmp_path: Path) -> None:
    config, tracker = tiny(tmp_path, "none", sampling={"vae": "somewhere"}), MagicMock()
    write_gallery(config, MagicMock(), MagicMock(), SAMPLES, 64, tracker)
    assert logged(tracker) == []


def test_samples_of_a_small_dataset_are_shown_beside_its_nearest_images(tmp_path: Path) -> None:
    dataset, tracker = write_numbered(tmp_path / "data", 60, 3, size=8), MagicMock()
    config = tiny(tmp_path, dataset.path, model={"input_size": 8})
    grid = str(tmp_path / "elsewhere.png")
    save_grid(torch.zeros((9, 1, 8, 8), dtype=torch.uint8), grid, 3)
    write_gallery(config, dataset, DiMR(config.model).eval(), grid, 64, tracker)
    assert sorted(logged(tracker)) == ["branches.png", "nearest.png"]

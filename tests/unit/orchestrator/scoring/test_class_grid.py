"""A grid of a few classes in seconds: the images are those that an evaluation samples of these classes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dimr_model import DiMR
from orchestrator.config.plain import to_yaml
from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import UserError
from orchestrator.sampling.class_grid import changed, labels_named
from orchestrator.sampling.sampler import ImageSampler
from orchestrator.scoring.command import sample
from tests.configs import tiny

SIZE = 8


@pytest.fixture
def config(tmp_path: Path) -> ExperimentConfig:
    return tiny(tmp_path, str(tmp_path / "no-dataset"), model={"input_size": SIZE, "num_classes": 12})


@pytest.fixture
def words(tmp_path: Path, config: ExperimentConfig) -> list[str]:
    torch.manual_seed(0)
    model = DiMR(config.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "exported")
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    return ["--config", str(tmp_path / "config.yaml"), "--checkpoint", str(tmp_path / "exported")]


def tiles(path: Path, rows: int, columns: int) -> np.ndarray:
    """The images of a grid, row by row; the space around each is the same on all sides."""
    picture = np.asarray(Image.open(path).convert("L"))
    height, width = picture.shape
    step = (height - (height - rows * SIZE) // (rows + 1)) // rows
    space = step - SIZE
    assert width == columns * step + space
    return np.stack([
        picture[space + row * step : (row + 1) * step, space + column * step : (column + 1) * step]
        for row in range(rows) for column in range(columns)
    ])  # fmt: skip


def test_it_shows_the_images_of_an_evaluation(
    tmp_path: Path, config: ExperimentConfig, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "grid.png"
    sample([*words, "--out", str(out), "--classes", "3,5", "--columns", "4", "--seed", "7",
            "--guidance", "3"])  # fmt: skip
    other = changed(config, 3.0, 7)
    model = DiMR.from_pretrained(tmp_path / "exported")
    indices = [label + 12 * number for label in (3, 5) for number in range(4)]
    # In the batches that the job samples them in: another batch size may change the last bit.
    expected = [ImageSampler(other, model, None).sample(indices[at : at + 4])[0] for at in (0, 4)]
    assert np.array_equal(tiles(out, 2, 4), torch.cat(expected)[:, 0].numpy())
    said = " ".join(capsys.readouterr().out.split())
    assert "a row for each of 3, 5; seed 7, guidance constant 3" in said


def test_without_classes_it_shows_the_first_ten(tmp_path: Path, words: list[str]) -> None:
    sample([*words, "--out", str(tmp_path / "grid.png"), "--columns", "2"])
    assert len(tiles(tmp_path / "grid.png", 10, 2)) == 20


def test_classes_are_numbers_or_names() -> None:
    names = ["zero", "one", "two", "7"]
    assert labels_named(None, names) == [0, 1, 2, 3]
    assert labels_named("2, one,7", names) == [2, 1, 3]
    with pytest.raises(UserError, match="Did you mean two"):
        labels_named("tow", names)
    with pytest.raises(UserError, match="numbered 0 to 3"):
        labels_named("4", names)


def test_what_is_not_possible_is_said_before_anything_is_drawn(
    tmp_path: Path, config: ExperimentConfig, words: list[str]
) -> None:
    with pytest.raises(UserError, match="name its PNG with --out"):
        sample([*words, "--classes", "3"])
    with pytest.raises(UserError, match="must end in .png"):
        sample([*words, "--out", str(tmp_path / "grid.jpg")])
    with pytest.raises(UserError, match="--guidance 0.5 .* must be at least 1"):
        sample([*words, "--out", str(tmp_path / "grid.png"), "--guidance", "0.5"])
    assert changed(config, 1.0, None).sampling.guidance.kind == "none"
    assert changed(config, None, None) == config

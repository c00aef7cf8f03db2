"""The picture of the branches: what is in which tile, of which networks there is one, and its command."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dimr_model import DiMR
from dimr_model.diffusion import branch_targets
from orchestrator.config.plain import to_yaml
from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import UserError
from orchestrator.images import to_uint8
from orchestrator.sampling.branches import branches_sheet, shown_labels
from orchestrator.sampling.tiles import GAP
from orchestrator.scoring.command import branches
from tests.configs import tiny

STEPS, SIDE, CLASSES = 3, 64, 4


def settings(tmp_path: Path, channels: int = 1, multi_scale_loss: bool = True) -> ExperimentConfig:
    return tiny(
        tmp_path, str(tmp_path / "no-dataset"),
        model={"input_size": 8, "channels": channels, "num_classes": CLASSES, "depths": [1, 1, 1],
               "widths": [8, 8, 8]},
        diffusion={"schedule": "cosine", "prediction": "v", "multi_scale_loss": multi_scale_loss},
        sampling={"sampler": {"steps": STEPS}, "guidance": {"kind": "none"}, "batch_size": 4, "actors": 0,
                  "use_gpu": False},
    )  # fmt: skip


def clean_of(labels: Tensor, channels: int) -> Tensor:
    """The one picture of each class, ``[B, C, 8, 8]``."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand((CLASSES + 1, channels, 8, 8), generator=generator) * 1.8 - 0.9
    return pictures[labels]


class Perfect(DiMR):
    """Predicts its class's picture at every branch, without error."""

    def forward(self, noisy: Tensor, level: Tensor, labels: Tensor) -> list[Tensor]:
        process = settings(Path("unused")).diffusion.make_process()
        step = ((level + 4) / 8 * 1000).round().long()
        clean = clean_of(labels, self.architecture.channels)
        noise = process.to_noise(noisy, clean, step, "x")
        return branch_targets(process.target(clean, noise, step, "v"), 3)


def tile(sheet: Image.Image, block: int, blocks: int, row: int, rows: int, column: int) -> np.ndarray:
    """A tile. Each block has a line above it and half a line below it, and the first a line of heads."""
    height = rows * (SIDE + GAP) - GAP
    assert sheet.height == 18 + blocks * (18 + height + 9)
    top = 18 + 18 + block * (height + 18 + 9) + row * (SIDE + GAP)
    left = sheet.width - STEPS * (SIDE + GAP) + GAP + column * (SIDE + GAP)
    return np.asarray(sheet.crop((left, top, left + SIDE, top + SIDE)).convert("RGB"))


@pytest.mark.parametrize("channels", [1, 3])
def test_each_branch_of_a_perfect_network_shows_the_downsampled_picture(
    tmp_path: Path, channels: int
) -> None:
    config = settings(tmp_path, channels)
    labels, names = [1, 3], ["zero", "one", "two", "three"]
    sheet = Image.open(io.BytesIO(branches_sheet(config, Perfect(config.model).eval(), labels, names)))
    for block, label in enumerate(labels):
        clean = clean_of(torch.tensor([label]), channels)
        for row, k in enumerate((4, 2, 1)):
            small = to_uint8(F.avg_pool2d(clean, k))[0].expand(3, -1, -1).permute(1, 2, 0).numpy()
            factor = SIDE * k // 8
            expected = small.repeat(factor, 0).repeat(factor, 1).astype(int)
            for column in range(STEPS):
                found = tile(sheet, block, 2, row, 3, column).astype(int)
                assert abs(found - expected).max() <= 1


def test_a_branch_that_was_not_trained_has_no_row(tmp_path: Path) -> None:
    config = settings(tmp_path, multi_scale_loss=False)
    sheet = Image.open(io.BytesIO(branches_sheet(config, Perfect(config.model).eval(), [2], ["a"] * 4)))
    assert sheet.height == 18 + 18 + SIDE + 9


def test_many_steps_are_thinned(tmp_path: Path) -> None:
    config = settings(tmp_path)
    sampler = dataclasses.replace(config.sampling.sampler, steps=40)
    config = dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, sampler=sampler))
    sheet = Image.open(io.BytesIO(branches_sheet(config, Perfect(config.model).eval(), [2], ["a"] * 4)))
    assert 10 * (SIDE + GAP) < sheet.width < 11 * (SIDE + GAP)


def test_a_few_classes_are_shown() -> None:
    assert [shown_labels(count) for count in (1, 2, 3, 10, 1000)] == [
        [0], [0, 1], [0, 1, 2], [0, 3, 6], [0, 333, 666],
    ]  # fmt: skip


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    config = settings(tmp_path)
    DiMR(config.model).save_pretrained(tmp_path / "exported")
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    return ["--config", str(tmp_path / "config.yaml"), "--checkpoint", str(tmp_path / "exported")]


def test_the_command_writes_the_picture_and_says_of_what(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "branches.png"
    branches([*words, "--out", str(out), "--classes", "3,1", "--seed", "7", "--guidance", "2"])
    assert "a block for each of 3, 1; seed 7, guidance constant 2" in " ".join(
        capsys.readouterr().out.split()
    )
    assert Image.open(out).height == 18 + 2 * (18 + 9 + 3 * (SIDE + GAP) - GAP)
    before = out.read_bytes()
    branches([*words, "--out", str(out), "--classes", "3,1"])
    assert out.read_bytes() != before


def test_latents_and_other_mistakes_are_refused_in_words(tmp_path: Path, words: list[str]) -> None:
    out = tmp_path / "branches.png"
    with pytest.raises(UserError, match="samples latents, .* Take a network of pixels"):
        branches([*words, "--out", str(out), "--sampling.vae", "somewhere"])
    with pytest.raises(UserError, match="there is no such class"):
        branches([*words, "--out", str(out), "--classes", "9"])
    with pytest.raises(UserError, match="must end in .png"):
        branches([*words, "--out", str(tmp_path / "branches.jpg")])
    assert not out.exists()

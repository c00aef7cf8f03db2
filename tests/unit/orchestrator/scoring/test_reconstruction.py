"""What a VAE makes of images: each by itself, compared by formulas that numpy confirms."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from rich.console import Console

from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.errors import UserError
from orchestrator.sampling.parts import Range
from orchestrator.scoring.real_images import ImageReader, open_images
from orchestrator.scoring.reconstruction import Reconstructions, Reconstructor, psnr, ssim
from orchestrator.scoring.vae_score import score_vae
from tests.configs import tiny

SILENT = Console(quiet=True)
SIZE, COUNT = 32, 12


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import AutoencoderKL

    path = tmp_path_factory.mktemp("vae") / "small"
    torch.manual_seed(0)
    AutoencoderKL(
        block_out_channels=(8, 16), latent_channels=2, norm_num_groups=4, sample_size=SIZE,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).save_pretrained(path)  # fmt: skip
    return path


@pytest.fixture
def config(tmp_path: Path, vae: Path) -> ExperimentConfig:
    return tiny(
        tmp_path / "runs", str(tmp_path / "none"), model={"input_size": SIZE // 2, "channels": 2},
        sampling={"vae": str(vae)},
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(COUNT):
        small = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8))
        small.resize((SIZE, SIZE)).save(tmp_path / "images" / f"{number:02d}.png")
    return tmp_path / "images"


def test_no_image_depends_on_those_beside_it(config: ExperimentConfig, folder: Path) -> None:
    images = open_images(str(folder), config)
    reconstructor = Reconstructor(Reconstructions(images), config, use_gpu=False)
    together = reconstructor.read(Range(0, COUNT))
    in_twos = [reconstructor.read(Range(start, start + 2)) for start in range(0, COUNT, 2)]
    for name in ("image", "psnr", "ssim"):
        assert np.array_equal(together[name], np.concatenate([few[name] for few in in_twos])), name
    assert len(np.unique(together["psnr"])) == COUNT


def test_a_vae_is_scored_and_what_is_finished_is_not_done_again(
    config: ExperimentConfig, folder: Path, vae: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = open_images(str(folder), config)
    where, numbers = score_vae(config, images, SILENT)
    assert list(numbers) == ["rfd12_efficientnet_lite0", "psnr_12", "ssim_12"]
    originals = torch.from_numpy(ImageReader(images, config).read(images.ranges[0])["image"])
    made = torch.from_numpy(
        Reconstructor(Reconstructions(images), config, use_gpu=False).read(Range(0, COUNT))["image"]
    )
    assert numbers["psnr_12"]["value"] == pytest.approx(psnr(originals, made).mean().item())
    assert numbers["ssim_12"]["value"] == pytest.approx(ssim(originals, made).mean().item())
    distance = numbers["rfd12_efficientnet_lite0"]
    assert distance["value"] > 0 and distance["error"] > 0
    assert distance["protocol"]["vae"]["name"] == vae.name
    assert distance["protocol"]["extractor"]["name"] == "efficientnet_lite0"
    assert json.loads((Path(where) / "metrics.json").read_text())["metrics"] == numbers

    def again(*arguments: Any) -> None:
        raise AssertionError("an image was encoded twice")

    monkeypatch.setattr(Reconstructor, "read", again)
    assert score_vae(config, images, SILENT) == (where, numbers)


def test_the_same_images_have_no_distance_and_the_most_of_psnr_and_ssim(folder: Path) -> None:
    same = torch.randint(0, 256, (3, 3, 20, 20), generator=torch.Generator().manual_seed(0)).byte()
    assert psnr(same, same).tolist() == pytest.approx([10 * np.log10(255**2 * 12)] * 3)
    assert ssim(same, same).tolist() == pytest.approx([1.0] * 3)


def direct_ssim(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    places = np.arange(11) - 5
    window = np.exp(-(places[:, None] ** 2 + places[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    found = []
    for one, two in zip(first.astype(float), second.astype(float), strict=True):
        for top in range(one.shape[0] - 10):
            for left in range(one.shape[1] - 10):
                a, b = (x[top : top + 11, left : left + 11] for x in (one, two))
                mean_a, mean_b = (window * a).sum(), (window * b).sum()
                var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
                both = (window * (a - mean_a) * (b - mean_b)).sum()
                c1, c2 = 2.55**2, 7.65**2
                above = (2 * mean_a * mean_b + c1) * (2 * both + c2)
                found.append(above / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)))
    return float(np.mean(found))


def test_psnr_and_ssim_are_the_formulas() -> None:
    random = np.random.default_rng(0)
    first = random.integers(0, 256, (2, 3, 16, 13), np.uint8)
    second = np.clip(first + random.normal(0, 20, first.shape), 0, 255).astype(np.uint8)
    pair = torch.from_numpy(first), torch.from_numpy(second)
    errors = np.square(first.astype(float) - second.astype(float)).mean(axis=(1, 2, 3))
    assert psnr(*pair).numpy() == pytest.approx(10 * np.log10(255**2 / errors), rel=1e-6)
    expected = [direct_ssim(one, two) for one, two in zip(first, second, strict=True)]
    assert ssim(*pair).numpy() == pytest.approx(expected, rel=1e-6)


def test_what_cannot_be_reconstructed_is_said(
    config: ExperimentConfig, folder: Path, vae: Path, tmp_path: Path
) -> None:
    images = open_images(str(folder), config)
    no_vae = dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, vae=None))
    with pytest.raises(UserError, match="sampling.vae is null"):
        score_vae(no_vae, images, SILENT)
    with pytest.raises(UserError, match="SSIM takes at least 11x11"):
        score_vae(config, dataclasses.replace(images, resolution=8), SILENT)

    class Info:
        kind = "moments"

    latents = dataclasses.replace(images, dataset=type("Latents", (), {"info": Info})())
    assert not isinstance(latents.dataset, LatentDataset)
    with pytest.raises(UserError, match="holds latents"):
        score_vae(config, latents, SILENT)

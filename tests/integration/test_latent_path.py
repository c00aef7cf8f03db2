"""From JPEGs to a score at 256x256, through a VAE of Stable Diffusion's architecture with random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from orchestrator.data.format import open_dataset
from orchestrator.data.prepare import prepare_dataset
from orchestrator.run.experiment import run_experiment
from orchestrator.scoring.command import sample
from tests.configs import tiny

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.faults]
IMAGES = 10


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VAE with 84 million parameters; its latents are 8 times smaller and have 4 channels."""
    path = tmp_path_factory.mktemp("vae")
    torch.manual_seed(0)
    AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=256,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    ).save_pretrained(path)  # fmt: skip
    return path


def write_photographs(folder: Path) -> Path:
    random = np.random.default_rng(0)
    for index in range(IMAGES):
        place = folder / ("cat", "dog")[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (30, 40, 3), np.uint8)).resize((400, 300)).save(
            place / f"{index}.jpg"
        )
    return folder


def test_images_become_latents_are_trained_on_drawn_decoded_and_scored(tmp_path: Path, vae: Path) -> None:
    model = {
        "input_size": 32, "channels": 4, "num_classes": 2, "depths": [1, 1], "widths": [16, 8],
        "num_heads": 2,
    }  # fmt: skip
    config = tiny(
        tmp_path, str(tmp_path / "latents"),
        data={"path": str(tmp_path / "latents"), "source": "image_folder",
              "source_path": str(write_photographs(tmp_path / "images")), "lanes": 4},
        model=model, prepare={"use_gpu": False}, train={"images": 32},
        sampling={"vae": str(vae), "sampler": {"steps": 2}, "batch_size": 2, "use_gpu": False},
        evaluation={"images": 4, "extractors": ["efficientnet_lite0"]},
    )  # fmt: skip
    prepare_dataset(config)
    dataset = open_dataset(str(tmp_path / "latents"))
    assert dataset.info.diffusion_shape == (4, 32, 32)
    assert dataset.num_rows == 2 * IMAGES  # and mirrored
    run_experiment(config)
    scored = json.loads((tmp_path / "tiny" / "metrics.json").read_text())
    protocol = scored["metrics"]["fd4_efficientnet_lite0_ema"]["protocol"]
    assert protocol["vae"] == str(vae)
    assert np.isfinite(scored["metrics"]["fd4_efficientnet_lite0_ema"]["value"])
    sample(["--checkpoint", str(tmp_path / "tiny"), "--evaluation.images", "4", "--evaluation.save", "[npz]"])
    (drawn,) = (tmp_path / "tiny" / "evaluations").glob("*/samples-4.npz")
    images = np.load(drawn)["arr_0"]
    assert images.shape == (4, 256, 256, 3)
    assert len({image.tobytes() for image in images}) == 4

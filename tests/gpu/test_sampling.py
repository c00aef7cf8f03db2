"""Images sampled on a GPU: the CPU's, whichever images are sampled beside them, with and without a VAE."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dimr_model import DiMR
from dimr_model.objective import DIFFUSION_SAMPLERS, FLOW_SAMPLERS
from orchestrator.config.schema import ExperimentConfig
from orchestrator.sampling.parts import ranges_of
from orchestrator.sampling.sampler import ImageSampler
from orchestrator.scoring.classifier import SmallClassifier, classifier_content
from orchestrator.scoring.pipeline import Samples, Work, run_on_actors
from tests.configs import tiny
from tests.gpu import ON_GPU, marks

pytestmark = marks
MODEL = {"input_size": 8, "channels": 1, "depths": [3, 1], "widths": [32, 16]}
DIMENSIONS = {"efficientnet_lite0": 320, "dataset_classifier": 128}
KINDS = [
    *(("diffusion", kind) for kind in DIFFUSION_SAMPLERS),
    *(("flow", kind) for kind in FLOW_SAMPLERS),
]


def config_of(
    root: Path, use_gpu: bool = ON_GPU, process: str = "diffusion", **sampling: Any
) -> ExperimentConfig:
    sampler = {"kind": sampling.pop("kind", "released"), "steps": 6}
    # From the other schedule's first noise, thousands of times the data, Heun's rule magnifies rounding.
    diffusion = {"schedule": "scaled_linear"} if sampler["kind"] == "heun" else {}
    if process == "flow":
        diffusion = {"process": "flow", "prediction": "velocity"}
    guidance = {"kind": "constant", "scale": 3.0}
    return tiny(
        root, "data", model=MODEL, diffusion=diffusion,
        sampling={"sampler": sampler, "guidance": guidance, "use_gpu": use_gpu, **sampling},
    )  # fmt: skip


def network(config: ExperimentConfig) -> DiMR:
    torch.manual_seed(0)
    model = DiMR(config.model).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(("process", "kind"), KINDS)
def test_every_sampler_gives_the_cpu_s_images(process: str, kind: str, tmp_path: Path) -> None:
    here, there = (config_of(tmp_path, use_gpu, process=process, kind=kind) for use_gpu in (False, ON_GPU))
    expected, labels = ImageSampler(here, network(here), None).sample(list(range(8)))
    found, found_labels = ImageSampler(there, network(there), None).sample(list(range(8)))
    assert torch.equal(labels, found_labels)
    difference = (found.int() - expected.int()).abs()
    # A value between two bytes may be rounded to either.
    assert difference.max() <= 1 and (difference > 0).float().mean() < 0.01


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_image_does_not_depend_on_its_batch(precision: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, precision=precision)
    sampler = ImageSampler(config, network(config), None)
    together, _ = sampler.sample(list(range(16)))
    alone = torch.cat([sampler.sample([index])[0] for index in range(16)])
    difference = (together.int() - alone.int()).abs()
    # Another batch may take other kernels, which add up in another order.
    assert difference.max() <= (1 if precision == "fp32" else 8)
    assert difference.float().mean() < (0.01 if precision == "fp32" else 0.5)


def small_vae(folder: Path) -> str:
    """The folder of a VAE with random weights, for latents of four channels."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(32, 64), layers_per_block=1, latent_channels=4,
    ).save_pretrained(folder)  # fmt: skip
    return str(folder)


def test_the_vae_decodes_as_on_the_cpu(tmp_path: Path) -> None:
    vae, images = small_vae(tmp_path / "vae"), []
    for use_gpu in (False, ON_GPU):
        config = tiny(
            tmp_path, "data", model={**MODEL, "channels": 4},
            sampling={"sampler": {"steps": 4}, "vae": vae, "use_gpu": use_gpu},
        )  # fmt: skip
        images.append(ImageSampler(config, network(config), 0.2).sample(list(range(4)))[0])
    assert images[0].shape == (4, 3, 16, 16)
    difference = (images[0].int() - images[1].int()).abs()
    assert difference.max() <= 1 and (difference > 0).float().mean() < 0.01


@pytest.mark.usefixtures("ray_with_gpus")
def test_actors_on_a_gpu_write_what_this_process_samples(tmp_path: Path) -> None:
    config, classifier = config_of(tmp_path, actors=1), tmp_path / "classifier.safetensors"
    content = classifier_content(SmallClassifier(1, 3), right=1, held_out=1, trained_on=1, channels=1)
    classifier.write_bytes(content)
    evaluation = dataclasses.replace(
        config.evaluation, extractors=tuple(DIMENSIONS), dataset_classifier_weights=str(classifier)
    )
    config = dataclasses.replace(config, evaluation=evaluation)
    model, ranges = network(config), ranges_of(12, 4)
    work = Work(
        config, Samples(model, None), tuple(ranges), str(tmp_path / "work"), keep_below=2.0,
        extractors=config.evaluation.extractors,
    )  # fmt: skip
    assert sorted(piece.start for piece in run_on_actors(work, list(ranges))) == [0, 4, 8]
    assert not work.missing()
    parts = list(work.parts.read(list(ranges)))
    for kind, dimensions in DIMENSIONS.items():
        features = np.concatenate([part[f"{kind}.features"] for part in parts])
        assert features.shape == (12, dimensions) and np.isfinite(features).all()

"""Every row of the suite of recipes trains and samples, with the settings of its scale."""

import dataclasses
from collections.abc import Iterator
from functools import cache

import pytest
import torch
import torch.distributed as dist

from dimr_model import DiMR
from orchestrator.config.command_line import parse
from orchestrator.config.schema import ExperimentConfig
from orchestrator.sampling.sampler import ImageSampler
from orchestrator.sweeps.suites import cells_of, load_suite
from orchestrator.training.parallelize import make_mesh
from orchestrator.training.state import fresh_state
from orchestrator.training.step import Draws, train_step
from orchestrator.training.timing import Stopwatch

pytestmark = pytest.mark.long
RECIPES = ["paper_s", "v", "flow", "logit-normal", "min-SNR", "QK-norm", "Muon"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@cache
def configs() -> dict[str, ExperimentConfig]:
    suite = load_suite("recipes")
    base = parse("Test.", "quickstart", ["--config", "quickstart", "--config", "suites/scales/quickstart"])
    return {cell.name: cell.config for cell in cells_of(suite, "nano", base) if cell.config}


@pytest.mark.parametrize("resolutions", ["one", "all"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_learns_a_batch_and_samples(recipe: str, resolutions: str) -> None:
    config = configs()[f"{recipe}-{resolutions}-s0"]
    sampler = dataclasses.replace(config.sampling.sampler, steps=2)
    config = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, warmup_images=0, learning_rate_decay="constant"),
        sampling=dataclasses.replace(config.sampling, sampler=sampler),
    )
    state = fresh_state(config, make_mesh(config.train, "cpu", 1, 1), CPU)
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(8, 1, 28, 28, generator=generator).tanh()
    noise = torch.randn(8, 1, 28, 28, generator=generator)
    draws = Draws(clean, noise, torch.linspace(100.5, 900.5, 8, dtype=torch.float64), torch.arange(8))
    process, losses = config.diffusion.make_process(), []
    for _ in range(12):
        result = train_step(config, state, draws, process, Stopwatch(CPU))
        losses.append(float(result.losses[-1].mean()))
        assert not result.skipped
    # The same batch again and again is learned.
    assert losses[-1] < 0.9 * losses[0]
    model = DiMR(config.model).eval()
    model.load_state_dict({name: weight.full_tensor() for name, weight in state.ema.weights.items()})  # type: ignore[attr-defined]
    images, labels = ImageSampler(config, model, None).sample([0, 1, 2])
    assert images.shape == (3, 1, 28, 28) and labels.tolist() == [0, 1, 2]

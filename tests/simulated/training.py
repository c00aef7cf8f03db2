"""Training steps on a simulated GPU and on the CPU: prints how far they are apart, and what was waited for.

Autograd asks CUDA for its driver. So the tensors say that they are on ``meta``, which stands for the GPU
here. There is no autocast for it, and FSDP2 cannot hold such tensors: the steps are one rank's, in float32.
"""

import contextlib
import copy
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch

from dimr_model import DiMR
from dimr_model.ema import EMA
from orchestrator.config.schema import ExperimentConfig
from orchestrator.training import step
from orchestrator.training.optimizer import build_optimizer
from orchestrator.training.state import TrainState
from orchestrator.training.step import Draws, StepResult, train_step
from orchestrator.training.timing import Stopwatch
from tests.configs import tiny
from tests.simulated import cuda

STEPS = 3
CPU, META = torch.device("cpu"), torch.device("meta")
FLOW = {"process": "flow", "prediction": "velocity", "time": "logit_normal"}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "the paper's": {"diffusion": {"schedule": "scaled_linear", "prediction": "epsilon"}},
    "v, min-SNR": {"diffusion": {"loss_weight": "min_snr"}},
    "micro-batches": {"train": {"micro_batches": 2}},
    "AdaLN-Zero": {"model": {"time_conditioning": "adaln_zero", "class_conditioning": "adaln_zero"}},
    "flow, QK-norm, Muon": {
        "diffusion": FLOW, "model": {"qk_norm": True},
        "train": {"optimizer": "muon", "ema_rampup": 0.1, "vector_learning_rate_scale": 10.0},
    },
}  # fmt: skip


def config_of(root: Path, recipe: dict[str, dict[str, Any]]) -> ExperimentConfig:
    """A small config with a recipe."""
    model = {"input_size": 8} | recipe.get("model", {})
    diffusion = {"schedule": "cosine", "prediction": "v"} | recipe.get("diffusion", {})
    return tiny(root, "data", model=model, diffusion=diffusion, train=recipe.get("train", {}))


def draws_of(config: ExperimentConfig) -> Draws:
    """Made-up draws of a batch, on the CPU."""
    count, random = config.train.batch_size, torch.Generator().manual_seed(0)
    shape = (count, config.model.channels, config.model.input_size, config.model.input_size)
    clean, noise = torch.randn(shape, generator=random), torch.randn(shape, generator=random)
    steps = torch.randint(1, 1000, (count,), generator=random)
    steps = steps.double() if config.diffusion.is_continuous else steps
    return Draws(clean, noise, steps, torch.randint(0, config.model.num_classes, (count,), generator=random))


def steps_on(device: torch.device, config: ExperimentConfig, model: DiMR, draws: Draws) -> list[StepResult]:
    """The results of a few steps with the same draws, which change ``model``."""
    state = TrainState(model, build_optimizer(model, config.train), EMA(model), device)
    process = config.diffusion.make_process()
    return [train_step(config, state, draws, process, Stopwatch(CPU)) for _ in range(STEPS)]


def refuses_labels_of_the_cpu(config: ExperimentConfig, model: DiMR, draws: Draws) -> bool:
    """Whether a step fails whose labels were forgotten on the CPU."""
    there = draws.to(META, torch.float32)
    forgotten = dataclasses.replace(there, labels=draws.labels)
    state = TrainState(model, build_optimizer(model, config.train), EMA(model), META)
    try:
        step.forward_losses(config, state, forgotten, config.diffusion.make_process())
    except RuntimeError as error:
        return "on the CPU" in str(error)
    return False


def main(root: Path) -> None:
    """Print a line of JSON for every recipe."""
    cuda.GPU = META
    torch.__future__.set_swap_module_params_on_conversion(True)
    step.compute_precision = lambda precision, device: contextlib.nullcontext()  # type: ignore[assignment]
    for name, recipe in RECIPES.items():
        config = config_of(root, recipe)
        torch.manual_seed(0)
        model = DiMR(config.model).train()
        for call in ("set_requires_gradient_sync", "set_reshard_after_backward"):
            setattr(model, call, lambda _: None)  # FSDP2's, of which there is none.
        draws, here = draws_of(config), copy.deepcopy(model)
        expected = steps_on(CPU, config, here, draws)
        with cuda.SimulatedGPU() as gpu:
            there = copy.deepcopy(model).to(META)
            gpu.events.clear()
            found = steps_on(META, config, there, draws)
            events = dict(gpu.events)
            is_refused = refuses_labels_of_the_cpu(config, there, draws)
        weights = zip(here.parameters(), there.parameters(), strict=True)
        losses = zip(expected, found, strict=True)
        moved = zip(here.parameters(), model.parameters(), strict=True)
        print(
            json.dumps(
                {
                    "recipe": name,
                    "losses_apart": max(_apart(one.losses, other.losses) for one, other in losses),
                    "weights_apart": max(_apart(one, other) for one, other in weights),
                    "moved": max(_apart(one, other) for one, other in moved),
                    "events": events,
                    "mixed_is_refused": is_refused,
                }
            )
        )


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    numbers = other.numbers if isinstance(other, cuda.OnGPU) else other
    return float((one.detach() - numbers.detach()).abs().max())


if __name__ == "__main__":
    main(Path(sys.argv[1]))

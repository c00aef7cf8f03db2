"""Everything that training changes, as one object that knows how to save and load itself."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh

from dimr_model import DiMR, randomness
from dimr_model.ema import EMA
from orchestrator.checkpoints.weights import load_weights
from orchestrator.config.schema import ExperimentConfig
from orchestrator.training.optimizer import build_optimizer
from orchestrator.training.parallelize import parallelize


@dataclass
class TrainState:
    """The model, optimizer and EMA, sharded alike, and the position in training."""

    model: DiMR
    optimizer: torch.optim.AdamW
    ema: EMA
    device: torch.device
    images_seen: int = 0
    """Position of the run, which decides the data, the draws and the schedules."""
    attempt: int = 0
    """Part of every draw's seed, so that another attempt sees other noise."""
    skipped_steps: int = 0
    """Steps without an update because the gradient was not finite."""

    def state_dict(self) -> dict[str, Any]:
        """The tensors, sharded as they are, and the numbers, for torch's distributed checkpoint."""
        model, optimizer = get_state_dict(self.model, self.optimizer)
        position = {
            "images_seen": self.images_seen,
            "attempt": self.attempt,
            "skipped_steps": self.skipped_steps,
        }
        return {"model": model, "optimizer": optimizer, "ema": self.ema.weights, "position": position}

    def load_state_dict(self, loaded: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned; the loader has filled the EMA's tensors in place."""
        set_state_dict(
            self.model, self.optimizer, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"]
        )
        for name, value in loaded["position"].items():
            setattr(self, name, value)


def fresh_state(
    config: ExperimentConfig, mesh: DeviceMesh, device: torch.device, resumes: bool = False
) -> TrainState:
    """Make the state before the first step.

    Its weights depend on ``run.seed`` alone, or are those of ``train.init_from``.

    Args:
        resumes: whether a checkpoint will be loaded into it. Then its weights are not set, and
            ``train.init_from`` need not be there any more.
    """
    if resumes:
        with torch.device("meta"):
            model = DiMR(config.model)
        model.to_empty(device=device)
    elif config.train.init_from is not None:
        model = load_weights(config.train.init_from, config.model)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(randomness.generator(config.run.seed, "weights").integers(2**62)))
            model = DiMR(config.model)
            model.initialize(config.train.initial_std, config.train.initial_embedding_std)
    model = parallelize(model.train().to(device), mesh, config.train)
    return TrainState(model, build_optimizer(model, config.train), EMA(model), device)

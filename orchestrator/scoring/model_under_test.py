"""The model under test: a network's weights, and where they come from."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from dimr_model import DiMR
from orchestrator.checkpoints.selection import Checkpoint
from orchestrator.checkpoints.weights import FoundWeights, check_architecture, find_weights
from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import UserError


@dataclass(frozen=True)
class ModelUnderTest:
    """A network in eval mode on the CPU, and what one must know of its weights."""

    model: DiMR
    weights: dict[str, Any]
    """Part of every number's protocol: kind, sha256, the network's own settings, and for checkpoints the
    moving average's length."""
    images_seen: int | None
    """Images that the weights were trained on; None where the file does not tell."""

    @property
    def step(self) -> int:
        """The place of its numbers on MLflow's axis."""
        return self.images_seen or 0


def load_model_under_test(path: str, config: ExperimentConfig) -> ModelUnderTest:
    """The model under test at ``path``: a run's folder, a checkpoint, an exported folder, or a released file.

    Raises:
        UserError: there are none, they are broken, or of another network or training than the config's.
    """
    found = find_weights(path)
    if found.checkpoint is not None:
        _check_training(found.checkpoint.config, config, path)
    model = found.load(config.model.num_heads)
    check_architecture(model, config.model, path)
    return _describe(model, found)


def _check_training(trained: ExperimentConfig, config: ExperimentConfig, path: str) -> None:
    """Refuse to sample a network as what it was not trained for: the samples would be noise."""
    was, now = trained.diffusion, config.diffusion
    differing = [
        f"diffusion.{name} was {getattr(was, name)} and is {getattr(now, name)}"
        for name in ("process", "prediction", "schedule")
        if getattr(was, name) != getattr(now, name)
        and not (name == "schedule" and was.process == now.process == "flow")
    ]
    if differing:
        raise UserError(
            f"The network at {path} was trained with other settings than these: {'; '.join(differing)}. Its "
            "samples would be noise. Leave those settings out: the run's own config has them."
        )


def checkpoint_under_test(checkpoint: Checkpoint, config: ExperimentConfig) -> ModelUnderTest:
    """The model under test with the EMA weights of a checkpoint that is known to be whole."""
    found = FoundWeights(checkpoint.path, "ema", checkpoint)
    return _describe(found.load(config.model.num_heads), found)


def _describe(model: DiMR, found: FoundWeights) -> ModelUnderTest:
    # A released file does not tell the number of heads: the same weights with another are another network.
    network = json.loads(json.dumps(dataclasses.asdict(model.architecture)))
    if not network["qk_norm"]:
        del network["qk_norm"]  # Protocols and keys of networks without it are as before there was one.
    weights: dict[str, Any] = {"kind": found.kind, "sha256": _sha256(model), "network": network}
    if found.checkpoint is None:
        return ModelUnderTest(model, weights, None)
    train = found.checkpoint.config.train
    weights |= {"horizon_images": train.ema_horizon_images, "rampup": train.ema_rampup}
    return ModelUnderTest(model, weights, found.checkpoint.images_seen)


def _sha256(model: DiMR) -> str:
    """The hash of the parameters by name: the same for a checkpoint and for what was exported of it."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(parameter.contiguous().numpy().data)
    return digest.hexdigest()

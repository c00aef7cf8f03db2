"""Weights from wherever they lie: a run's folder, one checkpoint, an exported folder, or a released file."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dimr_model import DiMR, DiMRConfig, hub
from orchestrator import storage
from orchestrator.checkpoints.loading import load_ema
from orchestrator.checkpoints.selection import Checkpoint, newest_valid, problem_of
from orchestrator.config.mistakes import did_you_mean_path
from orchestrator.config.plain import absolute
from orchestrator.config.saved import CONFIG_FILE
from orchestrator.errors import UserError

WEIGHTS_FILES = (hub.CONFIG_FILE, hub.WEIGHTS_FILE)


@dataclass(frozen=True)
class FoundWeights:
    """What a path turned out to be."""

    path: str
    kind: Literal["ema", "exported", "released"]
    checkpoint: Checkpoint | None = None
    """The checkpoint that holds the weights; of kind ``ema`` only."""

    def load(self, num_heads: int) -> DiMR:
        """The network in eval mode on the CPU; ``num_heads`` is what released files do not tell.

        Raises:
            UserError: the weights are broken.
        """
        if self.checkpoint is not None:
            return load_ema(self.checkpoint).eval()
        return (
            _load_released(self.path, num_heads) if self.kind == "released" else _load_exported(self.path)
        ).eval()


def find_weights(path: str) -> FoundWeights:
    """Find out what lies at ``path``; checkpoints are read through and checked.

    Args:
        path: a run's folder (its newest checkpoint counts), a checkpoint's folder, an exported folder, or a
            released ``.pth`` file; all but the last may be ``s3://``.

    Raises:
        UserError: there are no weights, or a checkpoint is not complete.
    """
    path = (absolute(path) or path).rstrip("/")
    if storage.is_local(path) and Path(path).is_file():
        return FoundWeights(path, "released")
    names = storage.sizes(path)
    if all(name in names for name in WEIGHTS_FILES):
        return FoundWeights(path, "exported")
    if "checkpoints" in names:
        newest = newest_valid(path)
        if newest is None:
            raise UserError(f"The run {path} has no complete checkpoint yet.")
        return FoundWeights(path, "ema", newest)
    last = path.rpartition("/")[2]
    if CONFIG_FILE in names and last.isdigit():
        checkpoint = Checkpoint(path, int(last))
        problem = problem_of(checkpoint)
        if problem:
            raise UserError(f"{path} is not a complete checkpoint: {problem}. Name another of its run.")
        return FoundWeights(path, "ema", checkpoint)
    raise UserError(
        f"There are no weights at {path}. {did_you_mean_path(path)}Expected is a run's folder, a checkpoint, "
        f"an exported folder (with {' and '.join(WEIGHTS_FILES)}), or a released .pth file."
    )


def load_weights(path: str, expected: DiMRConfig) -> DiMR:
    """The network at ``path`` (see :func:`find_weights`), which must have the architecture ``expected``.

    Raises:
        UserError: there are no weights, they are broken, or of another architecture.
    """
    model = find_weights(path).load(expected.num_heads)
    check_architecture(model, expected, path)
    return model


def check_architecture(model: DiMR, expected: DiMRConfig, path: str) -> None:
    """Refuse weights of another network.

    Raises:
        UserError: the architecture differs; the message lists in what.
    """
    found = model.architecture
    differing = [
        f"{name} is {getattr(found, name)!r}, not {getattr(expected, name)!r}"
        for name in expected.__dataclass_fields__
        if getattr(found, name) != getattr(expected, name)
    ]
    if differing:
        raise UserError(
            f"The weights at {path} are of another network than the config's: {'; '.join(differing)}. "
            "Name other weights, or set model.* to theirs."
        )


def _load_released(path: str, num_heads: int) -> DiMR:
    try:
        return DiMR.from_released(path, num_heads)
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(f"{path} is not a released DiMR file: {error}") from error
    except Exception as error:  # torch names what it refuses to unpickle in errors of several kinds.
        raise UserError(f"{path} cannot be read as weights ({type(error).__name__}: {error}).") from error


def _load_exported(path: str) -> DiMR:
    with tempfile.TemporaryDirectory() as folder:
        for name in WEIGHTS_FILES:
            (Path(folder) / name).write_bytes(storage.read_bytes(storage.join(path, name)))
        try:
            return DiMR.from_pretrained(folder)
        except Exception as error:  # safetensors and the hub mixin raise errors of several kinds.
            raise UserError(
                f"The exported weights at {path} are broken ({error}). Export them again."
            ) from error

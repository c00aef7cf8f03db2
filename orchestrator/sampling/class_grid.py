"""A grid of a few classes, drawn at once in this process."""

import dataclasses
from collections.abc import Sequence

import torch

from dimr_model import DiMR
from dimr_model.config import Guidance
from orchestrator.config.mistakes import did_you_mean
from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import UserError
from orchestrator.images import save_grid
from orchestrator.sampling.sampler import ImageSampler
from orchestrator.sampling.sinks import class_indices

MOST_ROWS = 10
"""Rows of a grid for which no classes are named."""


def labels_named(text: str | None, names: Sequence[str]) -> list[int]:
    """The labels of classes that are given as numbers or names, such as ``3,5,8``; None: the first ten.

    Raises:
        UserError: there is no such class.
    """
    if text is None:
        return list(range(min(MOST_ROWS, len(names))))
    labels = []
    for word in (part.strip() for part in text.split(",")):
        if word in names:
            labels.append(list(names).index(word))
        elif word.isdecimal() and int(word) < len(names):
            labels.append(int(word))
        else:
            raise UserError(
                f"--classes names {word!r}, and there is no such class. {did_you_mean(word, names)}They are "
                f"numbered 0 to {len(names) - 1}."
            )
    return labels


def changed(config: ExperimentConfig, scale: float | None, seed: int | None) -> ExperimentConfig:
    """The config with constant guidance of ``scale`` and another seed, where they are given.

    Raises:
        UserError: the network cannot be guided so.
    """
    try:
        if seed is not None:
            config = dataclasses.replace(config, run=dataclasses.replace(config.run, seed=seed))
        if scale is not None:
            guidance = Guidance(kind="none") if scale == 1 else Guidance(kind="constant", scale=scale)
            sampling = dataclasses.replace(config.sampling, guidance=guidance)
            config = dataclasses.replace(config, sampling=sampling)
    except ValueError as error:
        raise UserError(f"--guidance {scale} or --seed {seed} is not possible: {error}") from error
    return config


def draw(
    config: ExperimentConfig, model: DiMR, scaling_factor: float | None, labels: Sequence[int], columns: int,
    path: str,
) -> None:  # fmt: skip
    """Write a PNG with a row of ``columns`` images for each of ``labels``.

    They are the images that an evaluation with this config samples of these classes, the first ones.
    """
    sampler = ImageSampler(config, model, scaling_factor)
    indices = torch.tensor([class_indices(config, label, columns) for label in labels]).flatten()
    batches = indices.split(config.sampling.batch_size)
    save_grid(torch.cat([sampler.sample(batch.tolist())[0] for batch in batches]), path, columns)

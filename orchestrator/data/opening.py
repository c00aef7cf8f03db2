"""Datasets as jobs open them: they must be there, and fit the config's network."""

from rich.console import Console

from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.compatibility import check_model
from orchestrator.data.format import LatentDataset, exists, open_dataset
from orchestrator.data.prepare import IN_MEMORY_SOURCES, prepare_dataset
from orchestrator.errors import UserError


def open_or_prepare_dataset(config: ExperimentConfig, console: Console) -> LatentDataset:
    """Open the dataset to train on; a missing one that can be made in seconds is made now.

    Raises:
        UserError: there is none, or it does not suit the config.
    """
    if not exists(config.data.path):
        if config.data.source == "none":
            raise UserError(
                f"There is no dataset at {config.data.path}. Make it with "
                "`python jobs/prepare_latents.py --config ...` (with the same --config, and data.source "
                "set), name another with --data.path, or try the whole system on a laptop first: "
                "`uv run jobs/train_g.py --config quickstart`."
            )
        if config.data.source not in IN_MEMORY_SOURCES:
            raise UserError(
                f"There is no dataset at {config.data.path}. Make it first, which takes a while: "
                "`python jobs/prepare_latents.py --config ...` with the same settings."
            )
        console.print(
            f"There is no dataset at {config.data.path}: preparing it from {config.data.source}.",
            soft_wrap=True,
        )
        prepare_dataset(config)
    dataset = open_dataset(config.data.path)
    check_model(config, dataset.info)
    if config.data.lanes > dataset.num_rows:
        raise UserError(
            f"data.lanes {config.data.lanes} are more than the {dataset.num_rows} rows of {config.data.path}."
        )
    return dataset


def open_held_out(config: ExperimentConfig) -> LatentDataset | None:
    """Open the dataset of the held-out loss; None where the config names none.

    Raises:
        UserError: it is not there, or it does not suit the config.
    """
    if config.data.held_out_path is None:
        return None
    if not exists(config.data.held_out_path):
        raise UserError(
            f"There is no dataset at {config.data.held_out_path}. Prepare it like the one to train on, with "
            "--data.path set to it and --data.source_path to the held-out images, or leave out "
            "--data.held_out_path."
        )
    held_out = open_dataset(config.data.held_out_path)
    check_model(config, held_out.info)
    return held_out


def open_if_there(config: ExperimentConfig) -> LatentDataset | None:
    """Open the training dataset; None where there is none.

    Raises:
        UserError: it is not what the network was made for.
    """
    if not exists(config.data.path):
        return None
    dataset = open_dataset(config.data.path)
    check_model(config, dataset.info)
    return dataset

"""From source images to the parquet dataset."""

import numpy as np

from dimr_model import randomness
from orchestrator.config import ExperimentConfig
from orchestrator.errors import UserError
from orchestrator.latents.format import (
    MAX_ROW_GROUP_ROWS,
    DatasetInfo,
    LatentDataset,
    exists,
    open_dataset,
    to_table,
    write_dataset,
)
from orchestrator.latents.sources import FASHION_CLASSES, read_source

ROWS_PER_FILE = 8192


def prepare_dataset(config: ExperimentConfig) -> LatentDataset:
    """Write the configured source as pixels to ``data.path``, replacing what is there.

    Rows are written in a shuffled order that is the same for every run, so that each row group is a fair sample of the
    classes although sources are often sorted by class.

    Raises:
        UserError: the source is not there or does not fit the model, or the folder cannot be written.
    """
    source, images, labels = read_source(config.data)
    num_classes = max(labels) + 1
    names = FASHION_CLASSES if "fashion" in source else tuple(str(label) for label in range(num_classes))
    if len(names) != num_classes:
        names = tuple(str(label) for label in range(num_classes))
    info = DatasetInfo(
        kind="pixels", shape=tuple(images.shape[1:]), source=source, num_images=len(images), class_names=names
    )
    check_model(config, info)
    order = randomness.generator(0, "dataset-order").permutation(len(images))
    # Small sets get small row groups, so that permuting row groups still means something.
    row_group_rows = int(np.clip(len(images) // 64, 1, MAX_ROW_GROUP_ROWS))
    rows_per_file = ROWS_PER_FILE // row_group_rows * row_group_rows
    tables = (
        to_table(info, images[rows], [labels[row] for row in rows], rows.tolist())
        for rows in (order[start : start + rows_per_file] for start in range(0, len(order), rows_per_file))
    )
    return write_dataset(config.data.path, info, tables, row_group_rows)


def check_model(config: ExperimentConfig, info: DatasetInfo) -> None:
    """Refuse a dataset that the configured model cannot be trained on.

    Raises:
        UserError: shape, class count or kind differ.
    """
    model = config.model
    expected = (model.channels, model.input_size, model.input_size)
    if info.diffusion_shape != expected:
        raise UserError(
            f"The dataset {config.data.path} holds {info.kind} of shape {list(info.diffusion_shape)}, the model takes "
            f"{list(expected)}. Set model.channels and model.input_size to fit, or --data.path to another dataset."
        )
    if len(info.class_names) != model.num_classes:
        raise UserError(
            f"The dataset {config.data.path} has {len(info.class_names)} classes, the model {model.num_classes}. "
            f"Set --model.num_classes {len(info.class_names)}, or --data.path to another dataset."
        )
    if (info.kind == "moments") != (config.sampling.vae is not None):
        wants = (
            "a VAE to decode its latents: set sampling.vae"
            if info.kind == "moments"
            else "no VAE: set sampling.vae null"
        )
        raise UserError(
            f"The dataset {config.data.path} holds {info.kind} and needs {wants}, or another --data.path."
        )
    if info.kind == "moments" and config.data.random_flip:
        raise UserError(
            f"{config.data.path} holds moments, whose flips are stored rows: set data.random_flip false."
        )


def prepare_and_report(config: ExperimentConfig) -> None:
    """Make the dataset and print what it holds; an existing one is left as it is.

    Raises:
        UserError: as :func:`prepare_dataset`.
    """
    if exists(config.data.path):
        print(f"{config.data.path} already holds a dataset; delete the folder to make it again.")
        dataset = open_dataset(config.data.path)
    else:
        dataset = prepare_dataset(config)
    info = dataset.info
    print(f"{dataset.path}: {info.num_images} images as {info.kind} {list(info.shape)} from {info.source}, "
          f"{len(info.class_names)} classes, {len(dataset.row_groups)} row groups in {len(dataset.files)} files, "
          f"fingerprint {dataset.fingerprint}")  # fmt: skip

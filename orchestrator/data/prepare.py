"""From source images to the parquet dataset."""

import numpy as np
from rich.console import Console

from dimr_model import randomness
from orchestrator import cluster
from orchestrator.config.plain import with_absolute_paths
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.accounts import account_in_words
from orchestrator.data.compatibility import check_model, revision_of
from orchestrator.data.format import (
    MAX_ROW_GROUP_ROWS,
    DatasetInfo,
    LatentDataset,
    exists,
    finish_dataset,
    open_dataset,
    to_table,
    write_dataset,
)
from orchestrator.data.sources.arrays import FASHION_CLASSES, read_source
from orchestrator.data.sources.decode import Decoding
from orchestrator.data.sources.listing import LABELS_IN_FILES, Listing, list_source
from orchestrator.errors import UserError
from orchestrator.logs import terminal
from orchestrator.run.terminal import ImageProgress
from orchestrator.storage.lease import holding

ROWS_PER_FILE = 8192
IN_MEMORY_SOURCES = ("mnist5k", "idx")


def prepare_dataset(config: ExperimentConfig, console: Console | None = None) -> LatentDataset:
    """Write the configured source to ``data.path``.

    Sources are often sorted by class. Rows are written in a shuffled order, the same for every run, so that
    each row group is a fair sample of the classes. Collections of encoded images go through Ray Data, and
    continue where an earlier run stopped.

    Raises:
        UserError: the source is not there or does not fit the model, or the folder cannot be written.
    """
    with holding(config.data.path, "dataset", "--data.path"):
        if config.data.source in IN_MEMORY_SOURCES or config.data.source == "none":
            return _prepare_arrays(config)
        return _prepare_collection(config, console or terminal())


def _prepare_arrays(config: ExperimentConfig) -> LatentDataset:
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


def _prepare_collection(config: ExperimentConfig, console: Console) -> LatentDataset:
    from orchestrator.data.encode import encode_collection, plan_encoding

    listing = list_source(config.data)
    info = collection_info(config, listing)
    for note in listing.notes:
        console.print(note, soft_wrap=True, markup=False, highlight=False)
    try:
        check_model(config, info)
    except UserError as error:
        if config.data.source in LABELS_IN_FILES:
            raise
        raise UserError(f"{error} The source has {listing.classes_in_words()}") from error
    with cluster.connect(config), ImageProgress(console, "encode", listing.rows.num_rows) as progress:
        files, account = encode_collection(plan_encoding(config, info, listing), listing, progress)
    return finish_dataset(config.data.path, info, files, account)


def collection_info(config: ExperimentConfig, listing: Listing) -> DatasetInfo:
    """What a dataset of the images of ``listing`` says of itself.

    Raises:
        UserError: they are latents, and no VAE is set.
    """
    model, vae = config.model, config.sampling.vae
    imported, class_names = config.data.source in LABELS_IN_FILES, listing.class_names
    if vae is None:
        if imported:
            raise UserError(
                f"data.source {config.data.source} holds latents: set sampling.vae to the VAE that made them."
            )
        shape = (model.channels, model.input_size, model.input_size)
        return DatasetInfo(
            kind="pixels",
            shape=shape,
            source=listing.source,
            num_images=listing.rows.num_rows,
            class_names=class_names,
            source_fingerprint=listing.fingerprint,
            decoding=Decoding.of(config.prepare).to_dict(),
        )
    from orchestrator.data.vae import vae_config

    settings = vae_config(vae, config.prepare.vae_revision)
    return DatasetInfo(
        kind="moments",
        shape=(2 * int(settings["latent_channels"]), model.input_size, model.input_size),
        source=listing.source,
        num_images=listing.rows.num_rows,
        class_names=tuple(map(str, range(model.num_classes))) if imported else class_names,
        encoder=vae,
        encoder_revision=revision_of(vae, config.prepare.vae_revision),
        scaling_factor=float(settings["scaling_factor"]),
        # The released features hold flipped images as images of their own.
        flips=config.prepare.flips and not imported,
        source_fingerprint=listing.fingerprint,
        decoding=None if imported else Decoding.of(config.prepare).to_dict(),
    )


def prepare_and_report(config: ExperimentConfig) -> None:
    """Make the dataset and print what it holds; an existing one is left as it is.

    Raises:
        UserError: the source is not there or does not fit the model, or the folder cannot be written.
    """
    config = with_absolute_paths(config)
    if exists(config.data.path):
        print(f"{config.data.path} already holds a dataset; delete the folder to make it again.")
        dataset = open_dataset(config.data.path)
    else:
        dataset = prepare_dataset(config)
    info = dataset.info
    print(
        f"{dataset.path}: {info.num_images} images as {info.kind} {list(info.shape)} from {info.source}, "
        f"{len(info.class_names)} classes, {len(dataset.row_groups)} row groups in "
        f"{len(dataset.files)} files, fingerprint {dataset.fingerprint}"
    )
    if dataset.account is not None:
        print(account_in_words(dataset.account))

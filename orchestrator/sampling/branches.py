"""Coarse to fine: the clean image that each branch predicts, at some steps of sampling."""

from collections.abc import Sequence

from dimr_model import DiMR
from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import UserError
from orchestrator.images import encode_png, to_picture
from orchestrator.sampling.sampler import ImageSampler
from orchestrator.sampling.sinks import class_indices
from orchestrator.sampling.tiles import Row, as_tile, rows_of_tiles, spread, stacked

SHOWN_CLASSES, MOST_STEPS = 3, 10


def shown_labels(num_classes: int) -> list[int]:
    """A few classes, evenly spread."""
    return sorted({place * num_classes // SHOWN_CLASSES for place in range(SHOWN_CLASSES)})


def require_pixels(config: ExperimentConfig) -> None:
    """Refuse latents.

    Raises:
        UserError: the network samples latents.
    """
    if config.sampling.vae is not None:
        raise UserError(
            "This network samples latents, and its coarser branches predict averages of latents. They are no "
            "image's latents, so no VAE can decode them. Take a network of pixels, such as the quickstart's."
        )


def branches_sheet(
    config: ExperimentConfig, model: DiMR, labels: Sequence[int], class_names: Sequence[str]
) -> bytes:
    """A PNG with a block for each of ``labels``: a row for each branch, coarse to fine; columns are steps.

    Each block is the first image that an evaluation samples of the class. A branch that was not trained has
    no row. Guidance counts for every branch. A column's number is that of the network call.

    Raises:
        UserError: the network samples latents, or images that are not finite.
    """
    require_pixels(config)
    sampler = ImageSampler(config, model, None)
    steps = sampler.estimates([class_indices(config, label, 1)[0] for label in labels])
    trained = slice(None) if config.diffusion.multi_scale_loss else slice(-1, None)
    numbers = spread(range(len(steps)), MOST_STEPS)
    side = as_tile(to_picture(steps[0][-1][0])).width
    blocks = []
    for place, label in enumerate(labels):
        rows: list[Row] = []
        for branch in range(len(steps[0]))[trained]:
            small = [to_picture(steps[number][branch][place]) for number in numbers]
            name = f"{small[0].width}x{small[0].height}"
            rows.append((name, [as_tile(picture, side) for picture in small]))
        heads = [f"step {number + 1}" for number in numbers] if place == 0 else []
        blocks.append(rows_of_tiles(rows, heads, title=f"class {class_names[label]}"))
    return encode_png(stacked(blocks))

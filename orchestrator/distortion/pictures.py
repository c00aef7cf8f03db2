"""Contact sheets of low-fidelity images with the judge's verdicts, and the plot of its probabilities."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from orchestrator.artifacts import line_style, png_of
from orchestrator.distortion.analysis import ClassProbabilities
from orchestrator.images import encode_png

if TYPE_CHECKING:
    from orchestrator.distortion.study import Verdicts

SHEET_IMAGES = 60
COLUMNS = 10
LEAST_SIDE = 96
"""Pixels of a side; smaller images are shown enlarged by a whole factor, their pixels as squares."""
CAPTION_LINES = 2
FONT_SIZE = 11
LINE_HEIGHT = 14
GAP = 6


def contact_sheet(
    verdicts: "Verdicts", places: npt.NDArray[np.intp], threshold: float, class_names: Sequence[str]
) -> bytes:
    """Put the images at ``places`` into one PNG.

    Below each stand the class that was asked for, its probability, and the class that the judge sees instead.
    """
    images = [as_picture(image) for image in verdicts.images(places, threshold)]
    scored, font = verdicts.scored, ImageFont.load_default(FONT_SIZE)
    side = images[0].width
    cell_width, cell_height = side + GAP, side + GAP + CAPTION_LINES * LINE_HEIGHT
    rows = math.ceil(len(images) / COLUMNS)
    columns = min(COLUMNS, len(images))
    sheet = Image.new("RGB", (columns * cell_width + GAP, rows * cell_height + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (image, place) in enumerate(zip(images, places, strict=True)):
        left, top = GAP + number % COLUMNS * cell_width, GAP + number // COLUMNS * cell_height
        sheet.paste(image, (left, top))
        asked, seen = (class_names[labels[place]] for labels in (scored.labels, scored.predicted))
        for line, text in enumerate((f"{asked}: p {scored.probabilities[place]:.2g}", f"looks {seen}")):
            pen.text((left, top + side + line * LINE_HEIGHT), _fitting(text, font, side), "black", font)
    return encode_png(sheet)


def as_picture(image: npt.NDArray[np.uint8]) -> Image.Image:
    """Turn uint8 ``[C, H, W]`` into an RGB picture; a small one is enlarged."""
    pixels = np.broadcast_to(image, (3, *image.shape[1:])) if len(image) == 1 else image
    picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    factor = math.ceil(LEAST_SIDE / picture.width)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    while font.getlength(text) > width and len(text) > 1:
        text = text[:-1]
    return text


def probability_plot(scored: Sequence[ClassProbabilities], threshold: float) -> bytes:
    """Plot which share of each set's images has a class probability below p, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, one in enumerate(scored):
        style = {"color": line_style(number)["color"], "linestyle": ("-", "--", "-.", ":")[number % 4]}
        shares = np.arange(1, len(one.probabilities) + 1) / len(one.probabilities)
        axes.plot(np.sort(one.probabilities), 100 * shares, label=one.name, **style)
    axes.axvline(threshold, color="grey", linewidth=1)
    axes.annotate(
        f"low fidelity below {threshold:g}",
        (threshold, 1),
        xycoords=("data", "axes fraction"),
        xytext=(4, -12),
        textcoords="offset points",
        color="grey",
        fontsize=9,
    )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="probability of the conditioned class",
        ylabel="images with less than that (%)",
    )
    axes.legend()
    axes.grid(alpha=0.3)
    return png_of(figure)

"""What training brings, in one picture and one film: the same noise at each checkpoint.

Both are made of the previews.
"""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from orchestrator import storage
from orchestrator.images import encode_png, split_grid, to_picture, to_pixels
from orchestrator.sampling.tiles import (
    CLEAR,
    FONT_SIZE,
    GAP,
    GREY,
    LINE_HEIGHT,
    as_tile,
    rows_of_tiles,
    spread,
)

PREVIEWS = "previews"
MOST_ROWS, MOST_FRAMES = 10, 24
FRAME_MS, LAST_FRAME_MS = 500, 2500
MOST_BYTES = 250_000
QUALITIES = (90, 70, 50, 30)
"""What is tried in turn where the film without loss is larger than ``MOST_BYTES``. Then frames go."""
Preview = tuple[int, bytes]
"""(images seen, PNG)."""


def read_previews(directory: str) -> list[Preview]:
    """The previews of the run in ``directory``, by images seen."""
    folder = storage.join(directory, PREVIEWS)
    names = [name.removesuffix(".png") for name in storage.sizes(folder) if name.endswith(".png")]
    return [
        (seen, storage.read_bytes(storage.join(folder, f"{seen}.png")))
        for seen in sorted(int(name) for name in names if name.isdecimal())
    ]


def film_strip(previews: Sequence[Preview], columns: int) -> bytes:
    """A PNG with a row for each checkpoint: the first images of its preview, from the same noise in each row.

    Args:
        previews: at least one; of many some are taken, evenly spread.
        columns: of the previews.
    """
    rows = [(f"{seen:,}", _tiles(png, columns)[:columns]) for seen, png in spread(previews, MOST_ROWS)]
    return encode_png(rows_of_tiles(rows, title="images seen"))


def film(previews: Sequence[Preview], columns: int) -> bytes:
    """An animated WebP with a frame for each checkpoint: its preview, and how far training was."""
    shown = spread(previews, MOST_FRAMES)
    last = shown[-1][0]
    frames = [_frame(_tiles(png, columns), columns, seen, last) for seen, png in shown]
    content = _webp(frames, lossless=True)
    for quality in QUALITIES:
        if len(content) <= MOST_BYTES:
            break
        content = _webp(frames, quality=quality)
    while len(content) > MOST_BYTES and len(frames) > 2:
        frames = spread(frames, max(2, len(frames) // 2))
        content = _webp(frames, quality=QUALITIES[-1])
    return content


def _tiles(preview: bytes, columns: int) -> list[Image.Image]:
    """The images of a preview's grid."""
    return [as_tile(to_picture(image)) for image in split_grid(to_pixels(preview), columns)]


def _frame(tiles: list[Image.Image], columns: int, seen: int, last: int) -> Image.Image:
    rows = [("", tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    grid = rows_of_tiles(rows)
    font, text = ImageFont.load_default(FONT_SIZE), f"{last:,} images"
    width = max(grid.width, round(font.getlength(text)))
    frame = Image.new("RGBA", (width, grid.height + LINE_HEIGHT + 2 * GAP), CLEAR)
    frame.paste(grid, (0, 0))
    pen = ImageDraw.Draw(frame)
    top = grid.height + GAP
    pen.rectangle((0, top, max(1, grid.width * seen // last) - 1, top + GAP - 1), GREY)
    pen.text((0, top + GAP + LINE_HEIGHT / 2), f"{seen:,} images", GREY, font, anchor="lm")
    return frame


def _webp(frames: Sequence[Image.Image], **quality: int) -> bytes:
    content = io.BytesIO()
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS]
    frames[0].save(
        content, "WEBP", save_all=True, append_images=frames[1:], duration=durations, loop=0, **quality
    )
    return content.getvalue()

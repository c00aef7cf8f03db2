"""Small pictures in rows with labels, on a transparent ground, so that they suit light and dark pages."""

from collections.abc import Sequence
from typing import TypeVar

from PIL import Image, ImageDraw, ImageFont

TILE = 64
"""About the pixels of a tile's side."""
GAP = 2
FONT_SIZE = 12
LINE_HEIGHT = 18
GREY = (128, 128, 128)
"""Can be read on white and on black."""
CLEAR = (0, 0, 0, 0)
Item = TypeVar("Item")
Row = tuple[str, Sequence[Image.Image]]
"""A label, and tiles of equal size."""


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most ``most`` of the items (2 or more), evenly spread, with the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]


def as_tile(picture: Image.Image, side: int = TILE) -> Image.Image:
    """A square picture at about ``side``: a small one enlarged by a whole factor, its pixels as squares."""
    factor = round(side / picture.width)
    if factor >= 1:
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    return picture.resize((side, side), Image.Resampling.LANCZOS)


def rows_of_tiles(rows: Sequence[Row], heads: Sequence[str] = (), title: str = "") -> Image.Image:
    """Rows of tiles, with their labels at the left, ``heads`` above the columns and a title above all."""
    font = ImageFont.load_default(FONT_SIZE)
    width, height = rows[0][1][0].size
    left = max(round(font.getlength(label)) for label, _ in rows)
    left += 4 * GAP if left else 0
    top = LINE_HEIGHT * (bool(title) + bool(heads))
    columns = max(len(tiles) for _, tiles in rows)
    wide = max(left + columns * (width + GAP) - GAP, round(font.getlength(title)))
    size = (wide, top + len(rows) * (height + GAP) - GAP)
    sheet = Image.new("RGBA", size, CLEAR)
    pen = ImageDraw.Draw(sheet)
    pen.text((0, LINE_HEIGHT / 2), title, GREY, font, anchor="lm")
    for column, head in enumerate(heads):
        middle = left + column * (width + GAP) + width / 2
        pen.text((middle, top - LINE_HEIGHT / 2), head, GREY, font, anchor="mm")
    for number, (label, tiles) in enumerate(rows):
        row_top = top + number * (height + GAP)
        pen.text((left - 4 * GAP, row_top + height / 2), label, GREY, font, anchor="rm")
        for column, tile in enumerate(tiles):
            sheet.paste(tile, (left + column * (width + GAP), row_top))
    return sheet


def stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    """Sheets one below the other."""
    size = (max(sheet.width for sheet in sheets), sum(sheet.height + LINE_HEIGHT // 2 for sheet in sheets))
    whole, top = Image.new("RGBA", size, CLEAR), 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height + LINE_HEIGHT // 2
    return whole

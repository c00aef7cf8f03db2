"""The strip and the film hold every checkpoint's images, at the right place, pixel for pixel."""

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from orchestrator.images import save_grid
from orchestrator.sampling.grids import PREVIEW_ROWS
from orchestrator.sampling.progress import (
    FRAME_MS,
    LAST_FRAME_MS,
    MOST_BYTES,
    MOST_FRAMES,
    MOST_ROWS,
    Preview,
    film,
    film_strip,
    read_previews,
)
from orchestrator.sampling.tiles import FONT_SIZE, GAP, as_tile, spread

FONT = ImageFont.load_default(FONT_SIZE)


def preview_of(folder: Path, seen: int, columns: int, channels: int, size: int) -> torch.Tensor:
    """Write a preview as a run does; returns its images."""
    images = torch.randint(
        0, 256, (PREVIEW_ROWS * columns, channels, size, size), dtype=torch.uint8,
        generator=torch.Generator().manual_seed(seen),
    )  # fmt: skip
    save_grid(images, str(folder / "previews" / f"{seen}.png"), columns)
    return images


def enlarged(images: torch.Tensor, factor: int) -> np.ndarray:
    """Images side by side, each pixel ``factor`` times as large: ``[H, N W, 3]``."""
    large = images.expand(-1, 3, -1, -1).repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    return np.concatenate([image.permute(1, 2, 0).numpy() for image in large], axis=1)


def without_gaps(sheet: Image.Image, left: int, top: int, columns: int, side: int) -> np.ndarray:
    """A row of tiles of a sheet, which must be opaque."""
    tiles = [
        np.asarray(sheet.crop((x, top, x + side, top + side)))
        for x in range(left, left + columns * (side + GAP), side + GAP)
    ]
    assert all((tile[..., 3] == 255).all() for tile in tiles)
    return np.concatenate(tiles, axis=1)[..., :3]


@settings(max_examples=15)
@given(
    count=st.integers(1, 30), columns=st.integers(1, 5), channels=st.sampled_from([1, 3]),
    size=st.sampled_from([7, 8, 28, 32, 64]),
)  # fmt: skip
def test_the_strip_has_a_row_for_each_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, count: int, columns: int, channels: int, size: int
) -> None:
    folder = tmp_path_factory.mktemp("run")
    images = {seen: preview_of(folder, seen, columns, channels, size) for seen in range(1, count + 1)}
    previews = read_previews(str(folder))
    assert [seen for seen, _ in previews] == list(images)  # By number: 2 before 10.
    strip = Image.open(io.BytesIO(film_strip(previews, columns)))
    factor = round(64 / size)
    side, shown = size * factor, spread(list(images), MOST_ROWS)
    label = max(round(FONT.getlength(f"{seen:,}")) for seen in shown)
    left = label + 4 * GAP
    assert strip.width == max(left + columns * (side + GAP) - GAP, round(FONT.getlength("images seen")))
    top = strip.height - len(shown) * (side + GAP) + GAP
    for row, seen in enumerate(shown):
        found = without_gaps(strip, left, top + row * (side + GAP), columns, side)
        assert np.array_equal(found, enlarged(images[seen][:columns], factor))
    assert "ynthetic" in strip.info["Description"]


def test_the_film_shows_every_checkpoint_in_order_and_lingers_on_the_last(tmp_path: Path) -> None:
    images = {seen: preview_of(tmp_path, seen, 4, 1, 8) for seen in (100, 200, 1000)}
    moving = Image.open(io.BytesIO(film(read_previews(str(tmp_path)), 4)))
    assert (moving.n_frames, moving.info["loop"]) == (3, 0)  # type: ignore[attr-defined]
    for number, expected in enumerate(images.values()):
        moving.seek(number)
        frame = moving.convert("RGBA")
        for row in range(PREVIEW_ROWS):
            found = without_gaps(frame, 0, row * (64 + GAP), 4, 64)
            assert np.array_equal(found, enlarged(expected[row * 4 : row * 4 + 4], 8))
        assert moving.info["duration"] == (LAST_FRAME_MS if number == 2 else FRAME_MS)
    assert frame.getpixel((0, frame.height - 1))[3] == 0  # type: ignore[index]  # The ground is transparent.


def test_a_film_stays_small_even_where_its_pictures_are_noise(tmp_path: Path) -> None:
    for seen in range(1, 31):
        preview_of(tmp_path, seen, 4, 3, 64)
    content = film(read_previews(str(tmp_path)), 4)
    assert 2 <= Image.open(io.BytesIO(content)).n_frames < MOST_FRAMES  # type: ignore[attr-defined]
    assert len(content) <= MOST_BYTES


def test_of_many_checkpoints_a_film_shows_some(tmp_path: Path) -> None:
    for seen in range(1, 41):
        save_grid(
            torch.full((6, 1, 8, 8), seen, dtype=torch.uint8), str(tmp_path / f"previews/{seen}.png"), 2
        )
    content = film(read_previews(str(tmp_path)), 2)
    assert Image.open(io.BytesIO(content)).n_frames == MOST_FRAMES  # type: ignore[attr-defined]


@given(st.integers(1, 200), st.integers(2, 30))
def test_what_is_spread_has_the_first_and_the_last(count: int, most: int) -> None:
    chosen = spread(range(count), most)
    assert (chosen[0], chosen[-1], len(chosen)) == (0, count - 1, min(count, most))
    steps = {after - before for before, after in pairwise(chosen)}
    assert not steps or (min(steps) >= 1 and max(steps) - min(steps) <= 1)


def test_a_large_picture_is_reduced_to_a_tile() -> None:
    assert as_tile(Image.new("RGB", (256, 256))).size == (64, 64)
    assert as_tile(Image.new("L", (28, 28))).size == (56, 56)


def test_a_run_without_previews_has_none(tmp_path: Path) -> None:
    none: list[Preview] = []
    assert read_previews(str(tmp_path)) == none

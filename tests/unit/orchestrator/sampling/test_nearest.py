"""The training image below a sample is the nearest one, and copies can be told by the difference."""

import io
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from orchestrator.data.format import read_rows, to_arrays
from orchestrator.images import make_grid, split_grid, to_png
from orchestrator.sampling.nearest import SHOWN_ROWS, nearest_sheet, two_nearest
from orchestrator.sampling.tiles import FONT_SIZE, GAP, LINE_HEIGHT, as_tile
from tests.datasets import write_numbered


def random_images(count: int, channels: int, side: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator)


@given(
    count=st.integers(2, 30),
    columns=st.integers(1, 7),
    channels=st.sampled_from([1, 3]),
    side=st.integers(1, 9),
)
def test_a_grid_is_split_into_its_images(count: int, columns: int, channels: int, side: int) -> None:
    images = random_images(count, channels, side)
    found = split_grid(make_grid(images, columns), min(columns, count))
    assert torch.equal(found[:count], images.expand(-1, 3, -1, -1))
    assert (found[count:] == 255).all()


@settings(max_examples=30)
@given(offset=st.integers(1, 20), data=st.data())
def test_the_nearest_image_and_its_difference_are_found(offset: int, data: st.DataObject) -> None:
    images = random_images(1200, 1, 5) // 2
    copied = data.draw(st.lists(st.integers(0, 1199), min_size=1, max_size=8))
    differences, numbers = two_nearest(images[copied] + offset, images)
    assert numbers[:, 0].tolist() == copied
    assert torch.allclose(differences[:, 0], torch.full((len(copied),), float(offset)).double())
    assert (differences[:, 1] > differences[:, 0]).all()


def test_each_sample_stands_above_its_nearest_training_image(tmp_path: Path) -> None:
    dataset = write_numbered(tmp_path / "data", 60, 10, size=8)
    images = torch.from_numpy(np.concatenate([to_arrays(dataset.info, t) for t in read_rows(dataset, 16)]))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))[:50]
    columns, side = 10, 64
    sheet = Image.open(io.BytesIO(nearest_sheet(to_png(make_grid(images[order], columns)), columns, dataset)))
    label = round(ImageFont.load_default(FONT_SIZE).getlength("nearest")) + 4 * GAP
    for top in (LINE_HEIGHT, LINE_HEIGHT + side + GAP):
        for column in range(columns):
            left = label + column * (side + GAP)
            expected = as_tile(Image.fromarray(images[order[column], 0].numpy())).convert("RGB")
            tile = sheet.crop((left, top, left + side, top + side)).convert("RGB")
            assert tile.tobytes() == expected.tobytes()
    assert sheet.height > SHOWN_ROWS * 2 * side

"""Grids are laid out as torchvision lays them out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.utils import make_grid as torchvision_grid

from orchestrator.images import make_grid, to_pixels, to_png


@given(st.integers(1, 9), st.sampled_from([1, 3]), st.integers(1, 5), st.integers(1, 6), st.integers(1, 4))
def test_a_grid_is_torchvisions(count: int, channels: int, height: int, width: int, columns: int) -> None:
    images = torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8)
    expected = torchvision_grid(images, nrow=columns, padding=2, pad_value=255)
    assert torch.equal(make_grid(images, columns), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_keeps_every_pixel(channels: int) -> None:
    image = torch.arange(channels * 20, dtype=torch.uint8).view(channels, 4, 5)
    assert torch.equal(to_pixels(to_png(image)), image)

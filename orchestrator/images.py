"""uint8 images as tensors, as PNGs and in grids."""

import io

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from orchestrator import storage

LINE = 2
"""Pixels between the images of a grid."""
SYNTHETIC = "Synthetic images sampled from a DiMR diffusion model"


def to_uint8(pixels: Tensor) -> Tensor:
    """Pixels in [-1, 1], of any shape -> uint8 on the CPU; ``sampling.decoder.ROUNDING`` says it in words."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


def to_png(image: Tensor, description: str = SYNTHETIC) -> bytes:
    """A uint8 image ``[C, H, W]`` as a PNG, whose metadata says what it is."""
    return encode_png(to_picture(image), description)


def to_picture(image: Tensor) -> Image.Image:
    """A uint8 image ``[C, H, W]``, grey or colour, as Pillow has it."""
    pixels = image.movedim(0, -1).contiguous().numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def encode_png(picture: Image.Image, description: str = SYNTHETIC) -> bytes:
    """A picture as a PNG, whose metadata says what it is."""
    metadata = PngInfo()
    metadata.add_text("Description", description)
    content = io.BytesIO()
    picture.save(content, format="PNG", pnginfo=metadata)
    return content.getvalue()


def to_pixels(encoded: bytes) -> Tensor:
    """An encoded image, grey or colour -> uint8 ``[C, H, W]``.

    Raises:
        OSError: it is no image.
    """
    with Image.open(io.BytesIO(encoded)) as image:
        array = np.array(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    return torch.from_numpy(array if array.ndim == 3 else array[..., None]).movedim(-1, 0)


def make_grid(images: Tensor, columns: int) -> Tensor:
    """uint8 images ``[N, C, H, W]`` row by row, with white lines between and around them: ``[3, H', W']``.

    A single image stays as it is, without lines.
    """
    images = to_rgb(images)
    if len(images) == 1:
        return images[0]
    columns = min(columns, len(images))
    rows, (height, width) = -(-len(images) // columns), images.shape[-2:]
    down, right = height + LINE, width + LINE
    grid = torch.full((3, rows * down + LINE, columns * right + LINE), 255, dtype=torch.uint8)
    for place, image in enumerate(images):
        top, left = place // columns * down + LINE, place % columns * right + LINE
        grid[:, top : top + height, left : left + width] = image
    return grid


def split_grid(grid: Tensor, columns: int) -> Tensor:
    """The square images ``[N, 3, H, H]`` of a grid of several; white ones where it had none."""
    side = (grid.shape[2] - LINE) // columns - LINE
    cells = grid[:, LINE:, LINE:].unfold(1, side, side + LINE).unfold(2, side, side + LINE)
    return cells.permute(1, 2, 0, 3, 4).flatten(0, 1)


def save_grid(images: Tensor, path: str, columns: int) -> None:
    """Write uint8 images ``[N, C, H, W]`` row by row as one PNG; its metadata calls them synthetic."""
    storage.write_bytes(path, to_png(make_grid(images, columns)))


def to_rgb(images: Tensor) -> Tensor:
    """Grey images ``[B, 1, H, W]`` as three equal channels; others as they are."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images

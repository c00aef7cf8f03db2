"""From network outputs to uint8 images, PNGs and grids."""

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torchvision.utils import make_grid

from orchestrator import storage
from orchestrator.errors import UserError

ROUNDING = "clamp to [-1, 1], scale to 0..255, round to nearest, uint8"
IMAGES_AT_ONCE = 4
SYNTHETIC = "Synthetic images drawn by a DiMR diffusion model"


class Decoder:
    """Turns clean latents or pixels into images; pixels need no VAE.

    Args:
        scaling_factor: of the latents that the network was trained on; None: the VAE's own.
    """

    def __init__(self, vae: str | None, scaling_factor: float | None, device: torch.device) -> None:
        self._vae: Any = None
        if vae is not None:
            from diffusers import AutoencoderKL

            self._vae = AutoencoderKL.from_pretrained(vae, low_cpu_mem_usage=False).to(device).eval()
            self._scaling_factor = scaling_factor or float(self._vae.config.scaling_factor)

    @torch.no_grad()
    def decode(self, clean: Tensor) -> Tensor:
        """``[B, C, h, w]`` latents, or pixels in [-1, 1] -> uint8 images ``[B, C, H, W]`` on the CPU.

        Raises:
            UserError: an image is not finite.
        """
        if self._vae is not None:
            clean = self._decode(clean / self._scaling_factor)
        if not torch.isfinite(clean).all():
            raise UserError(
                "The network drew images that are not finite: its weights are broken, or sampling.guidance.scale is far "
                "too large, or sampling.precision bf16 too coarse. Nothing of them was kept."
            )
        return ((clean.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()

    @torch.no_grad()
    def decode_means(self, moments: Tensor) -> Tensor:
        """A VAE's moments ``[B, 2C, h, w]`` -> uint8 images of their means."""
        means = moments.float().chunk(2, dim=1)[0]
        return self.decode(means.to(self._vae.device) * self._scaling_factor)

    def _decode(self, latents: Tensor) -> Tensor:
        # A VAE's activations are many times larger than a network's that draws latents.
        return torch.cat([self._vae.decode(few).sample for few in latents.split(IMAGES_AT_ONCE)])


def to_png(image: Tensor, description: str = SYNTHETIC) -> bytes:
    """A uint8 image ``[C, H, W]`` as a PNG, whose metadata says what it is."""
    pixels = image.movedim(0, -1).numpy()
    return encode_png(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels), description)


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


def save_grid(images: Tensor, path: str, columns: int) -> None:
    """Write uint8 images ``[N, C, H, W]`` as one PNG, row by row; its metadata says that they are synthetic."""
    storage.write_bytes(path, to_png(make_grid(images, nrow=columns, padding=2, pad_value=255)))

"""From network outputs to uint8 images and grids."""

import io
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torchvision.utils import make_grid

from orchestrator import storage

ROUNDING = "clamp to [-1, 1], scale to 0..255, round to nearest, uint8"


class Decoder:
    """Turns clean latents or pixels into images; pixels need no VAE."""

    def __init__(self, vae: str | None, scaling_factor: float | None, device: torch.device) -> None:
        self._vae: Any = None
        self._scaling_factor = scaling_factor
        if vae is not None:
            from diffusers import AutoencoderKL

            self._vae = AutoencoderKL.from_pretrained(vae, low_cpu_mem_usage=False).to(device).eval()

    @torch.no_grad()
    def decode(self, clean: Tensor) -> Tensor:
        """``[B, C, h, w]`` latents, or pixels in [-1, 1] -> uint8 images ``[B, C, H, W]`` on the CPU.

        Raises:
            ValueError: an image is not finite.
        """
        if self._vae is not None:
            assert self._scaling_factor is not None
            clean = self._vae.decode(clean / self._scaling_factor).sample
        if not torch.isfinite(clean).all():
            raise ValueError(
                "the network drew images that are not finite; its weights or the guidance scale are broken"
            )
        return ((clean.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


def save_grid(images: Tensor, path: str, columns: int) -> None:
    """Write uint8 images ``[N, C, H, W]`` as one PNG, row by row; its metadata says that they are synthetic."""
    grid = make_grid(images, nrow=columns, padding=2, pad_value=255)
    metadata = PngInfo()
    metadata.add_text("Description", "Synthetic images drawn by a DiMR diffusion model")
    content = io.BytesIO()
    Image.fromarray(grid.permute(1, 2, 0).numpy()).save(content, format="PNG", pnginfo=metadata)
    storage.write_bytes(path, content.getvalue())

"""From clean latents or pixels to uint8 images."""

from typing import Any

import torch
from torch import Tensor

from orchestrator.errors import UserError

ROUNDING = "clamp to [-1, 1], scale to 0..255, round to nearest, uint8"
IMAGES_AT_ONCE = 4


class Decoder:
    """Turns clean latents or pixels into images; pixels need no VAE.

    Args:
        scaling_factor: that of the latents that the network was trained on; None takes the VAE's own.
    """

    def __init__(self, vae: str | None, scaling_factor: float | None, device: torch.device) -> None:
        self._vae: Any = None
        if vae is not None:
            from diffusers import AutoencoderKL

            self._vae = AutoencoderKL.from_pretrained(vae, low_cpu_mem_usage=False).to(device).eval()
            self._scaling_factor = scaling_factor or float(self._vae.config.scaling_factor)

    @torch.no_grad()
    def decode(self, clean: Tensor) -> Tensor:
        """Latents ``[B, C, h, w]``, or pixels in [-1, 1] -> uint8 images ``[B, C, H, W]`` on the CPU.

        Raises:
            UserError: an image is not finite.
        """
        if self._vae is not None:
            clean = self._decode(clean / self._scaling_factor)
        if not torch.isfinite(clean).all():
            raise UserError(
                "The network sampled images that are not finite: its weights are broken, or "
                "sampling.guidance.scale is far too large, or sampling.precision bf16 too coarse. "
                "Nothing of them was kept."
            )
        return ((clean.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()

    @torch.no_grad()
    def decode_means(self, moments: Tensor) -> Tensor:
        """A VAE's moments ``[B, 2C, h, w]`` -> uint8 images of their means."""
        means = moments.float().chunk(2, dim=1)[0]
        return self.decode(means.to(self._vae.device) * self._scaling_factor)

    def _decode(self, latents: Tensor) -> Tensor:
        # A VAE's activations are many times larger than those of a network that samples latents.
        return torch.cat([self._vae.decode(few).sample for few in latents.split(IMAGES_AT_ONCE)])

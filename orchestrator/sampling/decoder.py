"""From clean latents or pixels to uint8 images."""

from typing import Any

import torch
from torch import Tensor

from orchestrator.data.vae import decode_latents, load_vae
from orchestrator.errors import UserError
from orchestrator.images import to_uint8

ROUNDING = "clamp to [-1, 1], scale to 0..255, round to nearest, uint8"


class Decoder:
    """Turns clean latents or pixels into images; pixels need no VAE.

    Args:
        scaling_factor: that of the latents that the network was trained on; None takes the VAE's own.
    """

    def __init__(
        self, vae: str | None, revision: str | None, scaling_factor: float | None, device: torch.device
    ) -> None:
        self._vae: Any = None
        if vae is not None:
            self._vae = load_vae(vae, revision, device)
            self._scaling_factor = scaling_factor or float(self._vae.config.scaling_factor)

    @torch.no_grad()
    def decode(self, clean: Tensor) -> Tensor:
        """Latents ``[B, C, h, w]``, or pixels in [-1, 1] -> uint8 images ``[B, C, H, W]`` on the CPU.

        Raises:
            UserError: an image is not finite.
        """
        if self._vae is not None:
            clean = decode_latents(self._vae, clean / self._scaling_factor)
        if not torch.isfinite(clean).all():
            raise UserError(
                "The network sampled images that are not finite: its weights are broken, or "
                "sampling.guidance.scale is far too large, or sampling.precision bf16 too coarse. "
                "Nothing of them was kept."
            )
        return to_uint8(clean)

    @torch.no_grad()
    def decode_means(self, moments: Tensor) -> Tensor:
        """A VAE's moments ``[B, 2C, h, w]`` -> uint8 images of their means."""
        means = moments.float().chunk(2, dim=1)[0]
        return self.decode(means.to(self._vae.device) * self._scaling_factor)

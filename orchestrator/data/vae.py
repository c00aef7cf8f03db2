"""The VAE that makes latents of images, and images of latents to look at."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from orchestrator.config.data import PrepareConfig
from orchestrator.data.format import DatasetInfo
from orchestrator.data.sources import reasons
from orchestrator.data.sources.rows import describe
from orchestrator.errors import UserError
from orchestrator.images import to_uint8
from orchestrator.precision import compute_device, compute_precision

IMAGES_AT_ONCE = 4


def vae_config(vae: str, revision: str | None = None) -> dict[str, Any]:
    """Read the configuration of an ``AutoencoderKL``, by folder, or hub name and revision.

    Raises:
        UserError: there is none.
    """
    from diffusers import AutoencoderKL

    try:
        config: dict[str, Any] = dict(AutoencoderKL.load_config(vae, **_of_hub(vae, revision)))
    except (OSError, ValueError) as error:
        raise UserError(
            f"There is no AutoencoderKL at {vae} ({error}). sampling.vae must be a folder that "
            "save_pretrained wrote, or a hub name that can be downloaded from here."
        ) from error
    return config


def downsampling(config: dict[str, Any]) -> int:
    """How many times smaller the latents of a VAE of this configuration are than images."""
    return int(2 ** (len(config["block_out_channels"]) - 1))


def load_vae(vae: str, revision: str | None, device: torch.device) -> Any:
    """Load an ``AutoencoderKL`` in eval mode, by folder, or hub name and revision."""
    from diffusers import AutoencoderKL

    loaded = AutoencoderKL.from_pretrained(vae, low_cpu_mem_usage=False, **_of_hub(vae, revision))
    return loaded.to(device).eval()


def _of_hub(vae: str, revision: str | None) -> dict[str, str]:
    """The revision as diffusers takes it; a folder has none."""
    return {} if revision is None or Path(vae).is_dir() else {"revision": revision}


def decode_latents(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """A VAE's latents ``[B, C, h, w]``, unscaled -> pixels ``[B, 3, H, W]``, about in [-1, 1]."""
    # A VAE's activations are many times larger than those of a network that samples latents.
    return torch.cat([vae.decode(few).sample for few in latents.split(IMAGES_AT_ONCE)])


class VAEEncoder:
    """Encodes chunks of decoded images; a pool of Ray Data's actors is made of this class."""

    def __init__(self, vae: str, config: PrepareConfig, info: DatasetInfo) -> None:
        self._device = compute_device(config.use_gpu)
        if not config.use_gpu:
            torch.set_num_threads(1)  # an actor holds one CPU
        self._vae = load_vae(vae, config.vae_revision, self._device)
        self._config, self._info = config, info

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Replace the uint8 pixels in ``image`` by moments, and add ``flipped_image`` for mirrored images.

        Moments that are not finite in half precision are no image; ``reason`` and ``detail`` say so.
        """
        images = rows["image"].to_pylist()
        good = [place for place, image in enumerate(images) if image is not None]
        if good:
            side = int((len(images[good[0]]) // 3) ** 0.5)
            stacked = np.stack(
                [np.frombuffer(images[place], np.uint8).reshape(3, side, side) for place in good]
            )
            pixels = torch.from_numpy(stacked).to(self._device).float() / 127.5 - 1
        columns: dict[str, Any] = {"image": pixels if good else None}
        if self._info.flips:
            columns["flipped_image"] = pixels.flip(-1) if good else None
        encoded: dict[str, list[bytes | None]] = {name: [None] * len(images) for name in columns}
        not_finite: set[int] = set()
        for name, batch in columns.items():
            for place, moments in zip(good, self._moments(batch) if good else (), strict=True):
                encoded[name][place] = moments.tobytes()
                if not np.isfinite(moments).all():
                    not_finite.add(place)
        rows = rows.drop_columns(["image"])
        for name, values in encoded.items():
            kept = [None if place in not_finite else value for place, value in enumerate(values)]
            rows = rows.append_column(name, pa.array(kept, pa.large_binary()))
        return _with_reasons(rows, not_finite)

    @torch.no_grad()
    def _moments(self, pixels: torch.Tensor) -> Any:
        """``[B, 3, H, W]`` in [-1, 1] -> mean and log-variance ``[B, 2C, h, w]`` as stored."""
        with compute_precision(self._config.precision, self._device):
            moments = self._vae.encode(pixels).latent_dist.parameters
        return moments.float().cpu().numpy().astype(self._info.dtype)


def _with_reasons(rows: pa.Table, not_finite: set[int]) -> pa.Table:
    """The rows, with the reason for those whose moments are not finite."""
    if not not_finite:
        return rows
    places = list(zip(*(rows[name].to_pylist() for name in ("path", "start", "size")), strict=True))
    for name in ("reason", "detail"):
        values = rows[name].to_pylist()
        for place in not_finite:
            detail = f"{describe(*places[place])}\nthe VAE makes NaN or infinity of it"
            values[place] = reasons.NOT_FINITE if name == "reason" else detail
        rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(values, pa.string()))
    return rows


@torch.no_grad()
def decode_means(vae: str, revision: str | None, moments: torch.Tensor) -> torch.Tensor:
    """Stored moments ``[B, 2C, h, w]`` -> uint8 images ``[B, 3, H, W]`` of their means.

    Raises:
        UserError: an image is not finite.
    """
    # A stored mean is what the VAE encoded: the scaling factor belongs to diffusion, and is not in it.
    means = moments.float().chunk(2, dim=1)[0]
    pixels = decode_latents(load_vae(vae, revision, torch.device("cpu")), means)
    if not torch.isfinite(pixels).all():
        raise UserError(
            f"{vae} decodes latents to images that are not finite. Name the VAE that made them with --vae."
        )
    return to_uint8(pixels)

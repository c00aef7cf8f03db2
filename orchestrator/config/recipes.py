"""What published recipes are in the words of the settings; a part of ``jobs/configs/REFERENCE.md``."""

from dataclasses import dataclass
from typing import Any

HEAD = """## Published recipes

What others trained with, in these words: objective, time and optimizer, and of the network what a setting
has. What is not in a row is the default, and U-ViT and DiMR are the defaults. "Not here" is what no setting
has. Learning rates are those of their networks and batches.
"""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One of them."""

    name: str
    source: str
    settings: dict[str, Any]
    """Dotted setting -> value."""
    not_here: str = ""
    """What it has besides."""


RECIPES = (
    Recipe(
        name="U-ViT and DiMR at 256 and 512",
        source="Bao et al. 2023; Liu et al. 2024",
        settings={
            "diffusion.process": "diffusion",
            "diffusion.schedule": "scaled_linear",
            "diffusion.prediction": "epsilon",
            "diffusion.time": "uniform",
            "train.learning_rate": 2e-4,
            "train.weight_decay": 0.03,
            "train.betas": [0.99, 0.99],
        },
    ),
    Recipe(
        name="DiMR at 64",
        source="Liu et al. 2024",
        settings={
            "diffusion.schedule": "vp_linear",
            "diffusion.prediction": "epsilon",
            "diffusion.class_dropout": 0.0,
            "sampling.guidance.kind": "none",
        },
    ),
    Recipe(
        name="DiT",
        source="Peebles and Xie 2023",
        settings={
            "diffusion.schedule": "vp_linear",
            "diffusion.prediction": "epsilon",
            "train.learning_rate": 1e-4,
            "train.betas": [0.9, 0.999],
            "train.weight_decay": 0.0,
            "train.warmup_images": 0,
            "train.ema_horizon_images": 2_560_000,
            "model.time_conditioning": "adaln_zero",
            "model.class_conditioning": "adaln_zero",
        },
        not_here="the learned variance; its beta goes from 0.0001 to 0.02 in 1,000 even steps, whose sigma "
        "is within 0.0013 of vp_linear's",
    ),
    Recipe(
        name="Min-SNR",
        source="Hang et al. 2023",
        settings={
            "diffusion.prediction": "epsilon",
            "diffusion.loss_weight": "min_snr",
            "diffusion.min_snr_gamma": 5.0,
        },
    ),
    Recipe(
        name="EDM",
        source="Karras et al. 2022",
        settings={
            "diffusion.prediction": "v",
            "diffusion.time": "lognormal",
            "diffusion.time_mean": -1.2,
            "diffusion.time_std": 1.2,
            "diffusion.continuous_time": True,
            "diffusion.loss_weight": "edm",
            "diffusion.edm_sigma_data": 0.5,
            "sampling.sampler.kind": "heun",
        },
        not_here="inputs and outputs scaled by sigma_data (v is this for sigma_data = 1), the sampler's "
        "times, augmentation",
    ),
    Recipe(
        name="SiT",
        source="Ma et al. 2024",
        settings={
            "diffusion.process": "flow",
            "diffusion.prediction": "velocity",
            "diffusion.time": "uniform",
            "train.learning_rate": 1e-4,
            "train.betas": [0.9, 0.999],
            "train.weight_decay": 0.0,
            "train.warmup_images": 0,
            "train.ema_horizon_images": 2_560_000,
            "model.time_conditioning": "adaln_zero",
            "model.class_conditioning": "adaln_zero",
            "sampling.sampler.kind": "heun",
        },
        not_here="its stochastic sampler",
    ),
    Recipe(
        name="Stable Diffusion 3",
        source="Esser et al. 2024",
        settings={
            "diffusion.process": "flow",
            "diffusion.prediction": "velocity",
            "diffusion.time": "logit_normal",
            "diffusion.time_mean": 0.0,
            "diffusion.time_std": 1.0,
            "diffusion.time_shift": 3.0,
            "model.qk_norm": True,
            "sampling.sampler.kind": "flow_match_euler",
        },
        not_here="text; the shift is that of 1024x1024",
    ),
    Recipe(
        name="LightningDiT",
        source="Yao et al. 2025",
        settings={
            "diffusion.process": "flow",
            "diffusion.prediction": "velocity",
            "diffusion.time": "logit_normal",
            "train.learning_rate": 2e-4,
            "train.betas": [0.9, 0.95],
            "train.weight_decay": 0.0,
            "model.time_conditioning": "adaln_zero",
            "model.class_conditioning": "adaln_zero",
            "sampling.sampler.kind": "euler",
        },
        not_here="the loss of the velocity's direction, rotary positions, SwiGLU, its aligned VAE, a shift "
        "of the sampler's times alone",
    ),
)


def recipes() -> str:
    """The table as Markdown, a row for each recipe."""
    rows = [f"| {r.name} | {r.source} | {_settings(r.settings)} | {r.not_here or '-'} |" for r in RECIPES]
    return "\n".join([HEAD, "| recipe | source | settings | not here |", "|---|---|---|---|", *rows, ""])


def _settings(settings: dict[str, Any]) -> str:
    return ", ".join(
        f"`{key}` {str(value).lower() if isinstance(value, bool) else value}"
        for key, value in settings.items()
    )

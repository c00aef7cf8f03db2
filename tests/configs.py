"""Small experiment configs for tests."""

from pathlib import Path
from typing import Any

from orchestrator.config.plain import from_dict
from orchestrator.config.schema import ExperimentConfig
from orchestrator.training.hooks import Hooks


def tiny(root: Path, path: str, /, **sections: dict[str, Any]) -> ExperimentConfig:
    """A network of a few thousand parameters on 2x2 or larger images.

    ``sections`` override, as they do in the YAML file.
    """
    plain: dict[str, dict[str, Any]] = {
        "run": {"name": "tiny", "root": str(root)},
        "data": {"path": path, "lanes": 4, "shuffle_window": 16},
        "model": {
            "input_size": 2, "channels": 1, "num_classes": 3, "depths": [1, 1], "widths": [8, 8],
            "num_heads": 2,
        },
        "diffusion": {"schedule": "cosine", "prediction": "v"},
        "train": {
            "images": 64, "batch_size": 8, "learning_rate": 1e-3, "warmup_images": 16,
            "ema_horizon_images": 32, "workers": 0, "use_gpu": False, "log_every_images": 16,
            "checkpoint_every_images": 32, "preview_every_images": 0,
        },
        "sampling": {"sampler": {"steps": 2}, "batch_size": 4, "actors": 0, "use_gpu": False},
        "evaluation": {"images": 12, "extractors": ["efficientnet_lite0"]},
    }  # fmt: skip
    for section, values in sections.items():
        plain[section] = {**plain.get(section, {}), **values}
    return from_dict(plain)


def no_hooks() -> Hooks:
    """Hooks that do nothing, for runs that nobody watches."""
    return Hooks(on_metrics=lambda metrics, seen: None, on_checkpoint=lambda checkpoint: None)

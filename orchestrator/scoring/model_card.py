"""The card that goes with exported weights.

It says what they are, how to use them, how they scored and by which protocol, and what they are not for.
"""

import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2

from dimr_model.complexity import count_macs, count_parameters
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import DatasetInfo
from orchestrator.run.folder import write_text
from orchestrator.run.provenance import git_revision

CARD_FILE = "README.md"
SHOWN_CLASSES = 10
OPTIMIZERS = {"adamw": "AdamW", "muon": "Muon and AdamW"}


def write_card(
    folder: str,
    config: ExperimentConfig,
    dataset: DatasetInfo,
    images_seen: int,
    metrics: Mapping[str, Any] | None = None,
) -> None:
    """Write ``README.md`` beside the weights in ``folder``; it follows the paper's Appendices A, G, H and I.

    Args:
        metrics: as in ``metrics.json``, name to value, meaning and protocol; None where the weights were not
            scored.
    """
    classes = dataset.class_names
    shown = ", ".join(f"{number}: {name}" for number, name in enumerate(classes[:SHOWN_CLASSES]))
    rest = len(classes) - SHOWN_CLASSES
    scores = [_score(name, one) for name, one in (metrics or {}).items()]
    content = {
        "name": config.run.name,
        "classes": classes,
        "dataset": dataset,
        "images_seen": images_seen,
        "facts": _facts(config, dataset),
        "vae": config.sampling.vae if dataset.kind == "moments" else None,
        "diffusion": ", ".join(
            f'{key}="{value}"' if isinstance(value, str) else f"{key}={value}"
            for key, value in config.diffusion.facts.items()
        ),
        "sampler": config.sampling.sampler,
        "guidance": config.sampling.guidance,
        "shown_classes": shown + (f" and {rest} more" if rest > 0 else ""),
        "scores": scores,
        "protocol": _protocol(metrics) if metrics else {},
        "is_imagenet": len(classes) == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in classes),
    }
    template = resources.files(__package__).joinpath("model_card.md").read_text(encoding="utf-8")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    write_text(folder, CARD_FILE, environment.from_string(template).render(content))


def _facts(config: ExperimentConfig, dataset: DatasetInfo) -> dict[str, str]:
    model, train = config.model, config.train
    channels, height, width = dataset.diffusion_shape
    return {
        "branches": f"{len(model.depths)}, of {', '.join(map(str, model.depths))} layers, "
        f"{', '.join(map(str, model.widths))} wide",
        "time and class": f"{model.time_conditioning}, {model.class_conditioning}",
        "size": f"{count_parameters(model):,} parameters, {count_macs(model) / 1e9:,.2f} GMAC a forward pass",
        "what is diffused": f"{dataset.kind}, {height}x{width}x{channels}",
        "trained on": f"{dataset.num_images:,} images of {dataset.source}",
        "objective": config.diffusion.words,
        "training": f"{train.images:,} images in batches of {train.batch_size}, "
        f"{OPTIMIZERS[train.optimizer]}, learning rate {train.learning_rate:g}, seed {config.run.seed}; "
        f"moving average over {train.ema_horizon_images:,} images"
        + (f", or {train.ema_rampup:g} of those seen where that is less" if train.ema_rampup else ""),
        "code": f"revision {git_revision()}",
    }


def _score(name: str, one: Mapping[str, Any]) -> dict[str, Any]:
    protocol = one["protocol"]
    return {
        "name": name,
        "value": f"{one['value']:.4g}" + (f" ± {one['error']:.2g}" if "error" in one else ""),
        "samples": f"{protocol['samples']:,}" if "samples" in protocol else "",
        "meaning": one["meaning"] + (f" (the paper: {one['paper']})" if "paper" in one else ""),
    }


def _protocol(metrics: Mapping[str, Any]) -> dict[str, str]:
    """How the first of the scores was made: each part's name, and a text for it."""
    protocols = (one["protocol"] for one in metrics.values())
    first = next(protocol for protocol in protocols if "samples" in protocol)
    return {key.replace("_", " "): _text(value) for key, value in first.items() if value is not None}


def _text(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    return ", ".join(
        f"{key.replace('_', ' ')} {_text(inner)}" for key, inner in value.items() if inner is not None
    )

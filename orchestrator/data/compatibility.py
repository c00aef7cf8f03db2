"""Whether a dataset is what a config's network and VAE take."""

import hashlib
from pathlib import Path

from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import DatasetInfo
from orchestrator.errors import UserError


def check_model(config: ExperimentConfig, info: DatasetInfo) -> None:
    """Refuse a dataset that the configured model cannot be trained on.

    Raises:
        UserError: shape, class count or kind differ.
    """
    model = config.model
    expected = (model.channels, model.input_size, model.input_size)
    if info.diffusion_shape != expected:
        raise UserError(
            f"The dataset {config.data.path} holds {info.kind} of shape {list(info.diffusion_shape)}, "
            f"the model takes {list(expected)}. Set model.channels and model.input_size to fit, or "
            "--data.path to another dataset."
        )
    num_classes = len(info.class_names)
    if num_classes != model.num_classes:
        raise UserError(
            f"The dataset {config.data.path} has {num_classes} classes, the model {model.num_classes}. "
            f"Set --model.num_classes {num_classes}, or --data.path to another dataset."
        )
    if (info.kind == "moments") != (config.sampling.vae is not None):
        wants = (
            "a VAE to decode its latents: set sampling.vae"
            if info.kind == "moments"
            else "no VAE: set sampling.vae null"
        )
        raise UserError(
            f"The dataset {config.data.path} holds {info.kind} and needs {wants}, or another --data.path."
        )
    if info.kind == "moments":
        _check_encoder(config, info)
    if info.kind == "moments" and config.data.random_flip:
        raise UserError(
            f"{config.data.path} holds moments, whose flips are stored rows: set data.random_flip false."
        )


def _check_encoder(config: ExperimentConfig, info: DatasetInfo) -> None:
    """Refuse latents that another VAE made: only the one that made them can decode them.

    A VAE in a local folder is known by its weights, one of the hub by its name.
    """
    vae = config.sampling.vae
    assert vae is not None
    if Path(vae).is_dir():
        recorded = info.encoder_revision or ""
        fits = not recorded.startswith("sha256:") or recorded == revision_of(vae, None)
    else:
        fits = (info.encoder_revision or "").startswith("sha256:") or vae == info.encoder
    if not fits:
        raise UserError(
            f"The dataset {config.data.path} was encoded by {info.encoder} ({info.encoder_revision}), and "
            f"sampling.vae is {vae}, which is another. Set --sampling.vae to the one that made it, or "
            "--data.path to another dataset."
        )


def revision_of(vae: str, revision: str | None) -> str:
    """The VAE's revision on the hub, or a checksum of a local folder's weights."""
    folder = Path(vae)
    if not folder.is_dir():
        return revision or "main"
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin")):
        digest.update(file.read_bytes())
    return f"sha256:{digest.hexdigest()}"

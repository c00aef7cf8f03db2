"""Whether a dataset is what a config's network and VAE take."""

import hashlib
from functools import lru_cache
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

    A VAE in a local folder is known by its weights, one of the hub by its name and revision.
    """
    vae = config.sampling.vae
    assert vae is not None
    recorded, revision = info.encoder_revision or "", revision_of(vae, config.prepare.vae_revision)
    if recorded.startswith("sha256:") and revision.startswith("sha256:"):
        fits = recorded == revision
    else:
        # A folder and a name on the hub cannot be compared.
        fits = recorded.startswith("sha256:") or revision.startswith("sha256:")
        fits = fits or (vae, revision) == (info.encoder, recorded)
    if not fits:
        raise UserError(
            f"The dataset {config.data.path} was encoded by {info.encoder} ({info.encoder_revision}), and "
            f"sampling.vae is {vae} ({revision}), which is another. Set --sampling.vae and "
            "--prepare.vae_revision to the one that made it, or --data.path to another dataset."
        )


def describe_vae(config: ExperimentConfig) -> dict[str, str] | None:
    """What decodes latents, known by its content rather than its place; None for pixels."""
    vae = config.sampling.vae
    if vae is None:
        return None
    name = Path(vae).name if Path(vae).is_dir() else vae
    return {"name": name, "revision": revision_of(vae, config.prepare.vae_revision)}


def revision_of(vae: str, revision: str | None) -> str:
    """The VAE's revision on the hub, or a checksum of a local folder's weights."""
    folder = Path(vae)
    if not folder.is_dir():
        return revision or "main"
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    return _hash_of(tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@lru_cache
def _hash_of(files: tuple[tuple[str, int, int], ...]) -> str:
    """The hash of files' contents one after another; sizes and times say when they must be read again."""
    digest = hashlib.sha256()
    for file, _, _ in files:
        digest.update(Path(file).read_bytes())
    return f"sha256:{digest.hexdigest()}"

"""Saving and loading as the hub does: ``config.json`` and safetensors, in a folder or a hub repository."""

import dataclasses
import json
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from torch import nn

from dimr_model.config import DiMRConfig

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
Network = TypeVar("Network", bound="HubModule")


class HubModule(nn.Module, PyTorchModelHubMixin):  # type: ignore[misc]
    """A network that is built from a :class:`DiMRConfig` alone, with ``save_pretrained`` and its like.

    The files are those that diffusers writes for a model, so that its tools read them.
    """

    architecture: DiMRConfig

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' type."""
        return next(self.parameters()).dtype

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Write ``config.json`` and the weights into a folder.

        Diffusers' options for sharding have no effect.

        Args:
            options: those of the hub's mixin, such as ``push_to_hub=True`` and ``repo_id``; with any of them
                a short model card is written too.
        """
        if options:
            pushed: str | None = super().save_pretrained(save_directory, **options)
            return pushed
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        self._save_pretrained(Path(save_directory))
        return None

    def _save_pretrained(self, save_directory: Path) -> None:
        described = {"_class_name": type(self).__name__, **dataclasses.asdict(self.architecture)}
        (save_directory / CONFIG_FILE).write_text(json.dumps(described, indent=2, sort_keys=True) + "\n")
        weights = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        safetensors.torch.save_file(weights, save_directory / WEIGHTS_FILE, metadata={"format": "pt"})

    @classmethod
    def from_pretrained(
        cls: type[Network],
        pretrained_model_name_or_path: str | PathLike[str],
        *,
        subfolder: str = "",
        torch_dtype: torch.dtype | None = None,
        **download: Any,
    ) -> Network:
        """Load the network, in eval mode and on the CPU.

        Args:
            pretrained_model_name_or_path: a folder, or the name of a repository of the hub.
            torch_dtype: the weights' type; None keeps the stored one.
            download: further options that ``huggingface_hub.hf_hub_download`` takes (revision, token,
                cache_dir and more).

        Raises:
            OSError: a file is missing or broken.
            ValueError: the files do not describe a network of this kind.
        """
        name = str(pretrained_model_name_or_path)
        folder = Path(name) / subfolder
        if Path(name).is_absolute() and not folder.is_dir():
            raise FileNotFoundError(f"There is no folder {folder}.")

        def find(file: str) -> Path:
            if Path(name).is_dir():
                return folder / file
            return Path(hf_hub_download(name, file, subfolder=subfolder or None, **download))

        described = json.loads(find(CONFIG_FILE).read_text())
        kind = described.get("_class_name", cls.__name__)
        if kind != cls.__name__:
            raise ValueError(f"{find(CONFIG_FILE)} describes a {kind}, not a {cls.__name__}")
        fields = {key: value for key, value in described.items() if not key.startswith("_")}
        with torch.device("meta"):
            model = cls(DiMRConfig(**fields))
        model.load_state_dict(safetensors.torch.load_file(find(WEIGHTS_FILE)), assign=True)
        return (model if torch_dtype is None else model.to(torch_dtype)).eval()

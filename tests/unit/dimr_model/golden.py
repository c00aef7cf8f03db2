"""Reading the golden files."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
MODELS = ("tiny_2r_tdrmsn", "tiny_2r_tdln", "tiny_2r_rmsn", "tiny_3r_tdrmsn")


def load_golden(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the description of a golden file."""
    return load_file(GOLDEN / f"{name}.safetensors"), json.loads((GOLDEN / f"{name}.json").read_text())


def state_dict(tensors: dict[str, Tensor], prefix: str = "sd/") -> dict[str, Tensor]:
    """The tensors below a prefix, under the released names."""
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}

"""Small sweeps: a suite and a config as files, as a user's own are, and the table they end in."""

import csv
from pathlib import Path
from typing import Any

import yaml

from orchestrator.config.plain import to_yaml
from orchestrator.data.format import LatentDataset
from tests.configs import tiny

PAPER = {"fid": "9.9", "source": "Table 9"}
SUITE: dict[str, Any] = {
    "title": "Branches by conditioning",
    "axes": [
        {"name": "branches", "options": [
            {"name": "1R", "branches": 1, "match": "parameters"},
            {"name": "2R"},
        ]},
        {"name": "time", "options": [
            {"name": "token", "changes": {"model.time_conditioning": "token"}},
            {"name": "TD-LN", "changes": {"model.time_conditioning": "td_layernorm"}, "paper": PAPER},
            {"name": "TD-RMSNorm"},
        ]},
    ],
}  # fmt: skip


def arguments(folder: Path, dataset: LatentDataset, images: int = 64, **suite: Any) -> list[str]:
    """The arguments of a sweep in ``folder``, whose config and suite are files, as a user's own are."""
    config, name = folder / "tiny.yaml", folder / "mine.yaml"
    train = {
        "images": images, "checkpoint_every_images": 32, "score_every_images": 32, "score_images": 8,
    }  # fmt: skip
    model = {
        "input_size": 2,
        "channels": 1,
        "num_classes": 3,
        "depths": [3, 1],
        "widths": [32, 16],
        "num_heads": 2,
    }
    config.write_text(to_yaml(tiny(folder, dataset.path, train=train, model=model)))
    name.write_text(yaml.safe_dump(SUITE | {"scales": {"nano": [str(config)]}} | suite))
    return ["--suite", str(name), "--finalists", "1", "--seeds", "2", "--gpu", "H100"]


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "mine-nano" / "table.csv").open() as stream:
        return list(csv.DictReader(stream))

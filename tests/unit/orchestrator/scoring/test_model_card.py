"""The model card that goes with exported weights."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from dimr_model import DiMR, Guidance, Sampler
from orchestrator.data.format import DatasetInfo
from orchestrator.scoring.model_card import write_card
from tests.configs import tiny

DIGITS = DatasetInfo(
    kind="pixels", shape=(1, 2, 2), source="numbers", num_images=60, class_names=("zero", "one", "two")
)
IMAGENET = DatasetInfo(
    kind="moments", shape=(8, 32, 32), source="images", num_images=1_281_167,
    class_names=tuple(f"n{number:08}" for number in range(1000)), encoder="a-vae", scaling_factor=0.2,
)  # fmt: skip
GUIDANCES = [
    {"kind": "none"},
    {"kind": "constant", "scale": 2.0, "interval": [0.2, 0.8]},
    {"kind": "power_cosine", "scale": 2.0, "power": 1.5},
]


def card(folder: Path, dataset: DatasetInfo = DIGITS, **sampling: Any) -> str:
    config = tiny(folder, "unused", sampling={"sampler": {"steps": 2}, **sampling})
    protocol = {"samples": 1000, "sampler": {"kind": "released", "steps": 2}, "vae": None, "seed": 0}
    metrics = {
        "fd1k_efficientnet_lite0_real": {"value": 11.9, "meaning": "the floor", "protocol": {"seed": 0}},
        "fd1k_efficientnet_lite0_ema": {
            "value": 256.78, "meaning": "distance", "protocol": protocol, "paper": "1.63",
        },
    }  # fmt: skip
    write_card(str(folder), config, dataset, 64, metrics)
    return (folder / "README.md").read_text()


@pytest.mark.parametrize("guidance", GUIDANCES, ids=lambda guidance: guidance["kind"])
def test_its_code_draws_images(tmp_path: Path, guidance: dict[str, Any]) -> None:
    config = tiny(tmp_path, "unused")
    DiMR(config.model).save_pretrained(tmp_path / "export")
    (code,) = re.findall(r"```python\n(.*?)```", card(tmp_path / "export", guidance=guidance), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("FOLDER", str(tmp_path / "export")), names)
    assert [image.size for image in names["images"]] == [(2, 2)] * 3
    assert f"guidance={Guidance(**guidance)}" in code
    assert str(dataclasses.replace(Sampler(), steps=2)) in code


def test_it_gives_every_score_and_the_protocol(tmp_path: Path) -> None:
    text = card(tmp_path)
    assert "| `fd1k_efficientnet_lite0_ema` | 256.8 | 1,000 | distance (the paper: 1.63) |" in text
    assert "| `fd1k_efficientnet_lite0_real` | 11.9 |  | the floor |" in text
    assert "| sampler | kind released, steps 2 |" in text
    assert "vae |" not in text
    assert "0: zero, 1: one, 2: two" in text
    assert "ImageNet" not in text


def test_weights_without_scores_say_so(tmp_path: Path) -> None:
    write_card(str(tmp_path), tiny(tmp_path, "unused"), DIGITS, 64)
    assert "were not scored" in (tmp_path / "README.md").read_text()


def test_imagenets_terms_come_with_its_classes(tmp_path: Path) -> None:
    text = card(tmp_path, IMAGENET, vae="a/vae")
    assert "non-commercial" in text and 'from_pretrained("a/vae")' in text
    assert "and 990 more" in text

"""The network saves, loads and is pushed as a model of the hub, in diffusers' files."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from huggingface_hub import HfApi

from dimr_model import DiMR, DiMRConfig

CONFIG = DiMRConfig(input_size=4, channels=2, num_classes=3, depths=(1, 1), widths=(8, 8), num_heads=2)


@pytest.fixture
def model() -> DiMR:
    torch.manual_seed(0)
    return DiMR(CONFIG)


def same_weights(one: DiMR, other: DiMR) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_files_are_those_of_a_diffusers_model(model: DiMR, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }
    described = json.loads((tmp_path / "config.json").read_text())
    assert described.pop("_class_name") == "DiMR"
    assert DiMRConfig(**described) == CONFIG
    stored = safetensors.torch.load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    assert stored.keys() == dict(model.named_parameters()).keys()


def test_it_is_loaded_ready_to_sample_with(model: DiMR, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "inner")
    for loaded in (
        DiMR.from_pretrained(tmp_path / "inner"),
        DiMR.from_pretrained(tmp_path, subfolder="inner"),
    ):
        assert loaded.architecture == CONFIG
        assert not loaded.training
        assert all(parameter.requires_grad for parameter in loaded.parameters())
        assert same_weights(loaded, model)
    assert DiMR.from_pretrained(tmp_path / "inner", torch_dtype=torch.bfloat16).dtype == torch.bfloat16


def test_what_is_no_dimr_is_refused(model: DiMR, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(described | {"_class_name": "UNet2DModel"}))
    with pytest.raises(ValueError, match="describes a UNet2DModel, not a DiMR"):
        DiMR.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder .*gone"):
        DiMR.from_pretrained(tmp_path / "gone")


def test_it_is_pushed_with_its_files_and_a_card(
    model: DiMR, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed: dict[str, bytes] = {}

    def upload(self: HfApi, *, repo_id: str, folder_path: Path, **options: Any) -> str:
        assert repo_id == "somebody/dimr"
        pushed.update({file.name: file.read_bytes() for file in Path(folder_path).iterdir()})
        return "uploaded"

    # The hub itself cannot be had in a test; what is sent there can.
    monkeypatch.setattr(
        HfApi, "create_repo", lambda self, repo_id, **options: type("Url", (), {"repo_id": repo_id})
    )
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    assert model.push_to_hub("somebody/dimr") == "uploaded"
    assert pushed.keys() == {"config.json", "diffusion_pytorch_model.safetensors", "README.md"}
    for name, content in pushed.items():
        (tmp_path / name).write_bytes(content)
    assert same_weights(DiMR.from_pretrained(tmp_path), model)
    assert dataclasses.asdict(DiMR.from_pretrained(tmp_path).architecture) == dataclasses.asdict(CONFIG)

"""Compilation asks for a compiler before anything is compiled."""

from pathlib import Path

import pytest
import torch

from dimr_model import DiMR
from orchestrator.compilation import compile_units
from orchestrator.errors import UserError
from orchestrator.sampling.sampler import ImageSampler
from tests.configs import tiny


@pytest.fixture
def model(tmp_path: Path) -> DiMR:
    return DiMR(tiny(tmp_path, "data").model)


def test_no_compiler_is_said(model: DiMR, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(
        UserError, match="need a C compiler, and there is none here .gcc or clang.*set both to false"
    ):
        compile_units(model)
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(UserError, match="no-such-compiler"):
        ImageSampler(tiny(tmp_path, "data", sampling={"compile": True}), model, None)


def test_every_unit_is_compiled(model: DiMR, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "gcc").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **how: compiled.append(module))
    compile_units(model)
    blocks = [block for branch in model.branches for block in branch.blocks]
    # Of an upsampling, what it does for each feature map.
    assert compiled == [blocks[0], model.branches[1].upsample.add_map, blocks[1]]

"""Released state dicts are read whole or refused by name."""

import pytest
import torch

from dimr_model import DiMR
from tests.unit.dimr_model.golden import load_golden, state_dict


def test_a_missing_and_a_misshapen_tensor_are_named() -> None:
    released = state_dict(load_golden("tiny_2r_tdrmsn")[0])
    del released["stages.0.blocks.1.block2.w0.bias"]
    released["stages.1.output_layer.2.bias"] = torch.zeros(3)
    with pytest.raises(ValueError, match="2 problems") as error:
        DiMR.from_released(released, num_heads=4)
    assert "missing: branches.0.blocks.1.mlp.gate.bias" in str(error.value)
    assert "branches.1.out.bias: shape (3,), expected (4,)" in str(error.value)


def test_something_else_is_no_released_checkpoint() -> None:
    with pytest.raises(ValueError, match="not a released DiMR"):
        DiMR.from_released({"weight": torch.zeros(1)})


def test_files_are_read_without_unpickling_code(tmp_path: object) -> None:
    released = state_dict(load_golden("tiny_2r_tdrmsn")[0])
    path = f"{tmp_path}/model.pth"
    torch.save(released, path)
    assert DiMR.from_released(path, num_heads=4).architecture.depths == (5, 5)
    torch.save({"code": print}, path)
    with pytest.raises(Exception, match="[Ww]eights"):
        DiMR.from_released(path)

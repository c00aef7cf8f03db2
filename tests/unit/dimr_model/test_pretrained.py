"""Released state dicts are read whole or refused by name."""

import dataclasses
import json

import pytest
import torch

from dimr_model import VARIANTS, DiMR
from tests.unit.dimr_model.golden import GOLDEN, load_golden, state_dict


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


@pytest.mark.parametrize(("variant", "tensors"), [("DiMR-XL-2R", 1018), ("DiMR-G-2R", 1446)])
def test_released_names_and_shapes_fit_the_paper_s_variants(variant: str, tensors: int) -> None:
    shapes = json.loads((GOLDEN / f"state_dict_shapes_{variant}.json").read_text())
    assert len(shapes) == tensors
    released = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    expected = VARIANTS[f"{variant.split('-')[1]}/2R-256"]
    built = tuple(expected.built_depth(r) for r in range(expected.num_branches))
    assert DiMR.from_released(released).architecture == dataclasses.replace(expected, depths=built)

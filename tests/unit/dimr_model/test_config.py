"""Impossible networks are refused with the way out."""

from typing import Any

import pytest

from dimr_model import DiMRConfig
from dimr_model.config import Guidance, Sampler

VALID: dict[str, Any] = {
    "input_size": 8, "channels": 1, "num_classes": 3, "depths": (3, 2), "widths": (16, 8), "num_heads": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_size": 9}, "not divisible by 2"),
        ({"num_heads": 3}, "does not divide the first branch's width 16"),
        ({"widths": (16,)}, "must list the same branches"),
        ({"depths": (0, 2)}, "must be positive"),
        ({"time_conditioning": "magic"}, "use one of td_rmsnorm"),
    ],
)
def test_impossible_networks_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiMRConfig(**VALID | change)


def test_lists_from_yaml_equal_tuples() -> None:
    assert DiMRConfig(**VALID | {"depths": [3, 2], "widths": [16, 8]}) == DiMRConfig(**VALID)


def test_built_depth_is_odd() -> None:
    config = DiMRConfig(**VALID | {"depths": (39, 20)})
    assert [config.built_depth(r) for r in range(2)] == [39, 21]


def test_guidance_weight_follows_its_definition() -> None:
    assert Guidance(kind="none").weight(500) == 1
    assert Guidance(scale=1.4).weight(10) == 1.4
    cosine = Guidance(kind="power_cosine", scale=3.0, power=2.0)
    assert cosine.weight(1000) == pytest.approx(1)
    assert cosine.weight(0) == pytest.approx(3)
    assert cosine.weight(600) < cosine.weight(200)


def test_the_released_increment_is_not_taken_for_a_scale() -> None:
    with pytest.raises(ValueError, match=r"the released code's 0\.4 is 1\.4"):
        Guidance(scale=0.4)


def test_sampler_steps_are_bounded() -> None:
    with pytest.raises(ValueError, match="1..1000"):
        Sampler(steps=0)

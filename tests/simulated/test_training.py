"""On a simulated GPU a step trains what the CPU does, refuses what lies on the CPU, and waits only once."""

from pathlib import Path

import pytest

from tests.simulated import printed_by
from tests.simulated.training import RECIPES, STEPS

pytestmark = pytest.mark.long
EACH_STEP = {
    "to the GPU (step.py:to)": 4 * STEPS,  # The draws, without waiting.
    "the host reads _local_scalar_dense (optimizer.py:clip_gradients)": STEPS,  # The gradient's norm.
}
ONCE = {"to the GPU, waiting (diffusion.py:_alphas_cumprod_on)": 1}
"""A table, which the diffusion process keeps for each device."""


def test_every_recipe_trains_what_the_cpu_does_and_waits_once_a_step(tmp_path: Path) -> None:
    found = printed_by("training", tmp_path)
    assert [one["recipe"] for one in found] == list(RECIPES)
    for one in found:
        assert one["losses_apart"] < 1e-5, one
        assert one["weights_apart"] < 0.01 * one["moved"], one
        assert one["mixed_is_refused"], one
        assert one["events"] == EACH_STEP | ({} if "flow" in one["recipe"] else ONCE), one

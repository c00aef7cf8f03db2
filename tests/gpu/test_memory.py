"""The planned memory is what torch's allocator hands out on a GPU."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.benchmarks.gpu import measure_training
from orchestrator.config.schema import ExperimentConfig
from tests.configs import tiny
from tests.gpu import DEVICE, marks, only_on_gpu

pytestmark = [*marks, only_on_gpu]
TWO_BRANCHES = {
    "input_size": 32, "channels": 4, "num_classes": 10, "depths": [9, 5], "widths": [512, 256],
    "num_heads": 8,
}  # fmt: skip
THREE_BRANCHES = {
    "input_size": 32, "channels": 3, "num_classes": 100, "depths": [5, 5, 5], "widths": [384, 192, 96],
    "num_heads": 6,
}  # fmt: skip


@pytest.mark.parametrize("model", [TWO_BRANCHES, THREE_BRANCHES], ids=["two branches", "three branches"])
@pytest.mark.parametrize("recomputed", [[], [0, 1]], ids=["kept", "recomputed"])
def test_planned_memory_is_the_peak_of_real_steps(
    model: dict[str, Any], recomputed: list[int], tmp_path: Path
) -> None:
    train = {
        "batch_size": 32, "workers": 1, "warmup_images": 0, "precision": "bf16", "use_gpu": True,
        "recompute_branches": recomputed,
    }  # fmt: skip
    config: ExperimentConfig = tiny(tmp_path, "unused", model=model, data={"lanes": 2}, train=train)
    measured = measure_training("here", config, 2, DEVICE)
    assert measured.bytes > 500e6
    assert measured.planned == pytest.approx(measured.bytes, rel=0.1)

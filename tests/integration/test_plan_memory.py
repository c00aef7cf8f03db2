"""The planned memory is what real training steps take, on shapes that are written nowhere else."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.planning.memory import worker_memory
from orchestrator.planning.trace import trace_step
from tests.configs import tiny
from tests.step_memory import measure

WITHIN = 0.15
TWO_BRANCHES = {
    "input_size": 32, "channels": 4, "num_classes": 10, "depths": [5, 3], "widths": [288, 144],
    "num_heads": 6,
}  # fmt: skip
THREE_BRANCHES = {
    "input_size": 28, "channels": 3, "num_classes": 100, "depths": [3, 3, 3], "widths": [256, 160, 64],
    "num_heads": 4,
}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "train"),
    [
        pytest.param(TWO_BRANCHES, {"batch_size": 10}, marks=pytest.mark.faults),
        pytest.param(
            TWO_BRANCHES,
            {"batch_size": 10, "micro_batches": 2, "recompute_branches": [0, 1]},
            marks=pytest.mark.faults,
        ),
        pytest.param(THREE_BRANCHES, {"batch_size": 20}, marks=pytest.mark.faults),
        pytest.param(
            THREE_BRANCHES, {"batch_size": 20, "recompute_branches": [0, 2]}, marks=pytest.mark.faults
        ),
        pytest.param(TWO_BRANCHES, {"batch_size": 20, "workers": 2}, marks=pytest.mark.faults),
        pytest.param(
            TWO_BRANCHES,
            {"batch_size": 20, "workers": 2, "micro_batches": 2, "precision": "bf16"},
            marks=pytest.mark.faults,
        ),
    ],
    ids=[
        "two branches",
        "two branches, recomputed, in parts",
        "three branches",
        "three branches, recomputed",
        "two branches, two workers in parts",
        "two branches, two workers that send bf16",
    ],
)
def test_planned_memory_is_the_peak_of_real_steps(
    model: dict[str, Any], train: dict[str, Any], tmp_path: Path
) -> None:
    train = {"workers": 1, "warmup_images": 0, **train}
    config = tiny(tmp_path, "unused", model=model, data={"lanes": 2}, train=train)
    planned = worker_memory(config, trace_step(config), shards=config.train.workers).total
    recorded, resident = measure(config, tmp_path)
    assert recorded > 100e6
    assert planned == pytest.approx(recorded, rel=WITHIN), f"planned {planned}, recorded {recorded}"
    assert planned == pytest.approx(resident, rel=WITHIN), f"planned {planned}, resident {resident}"
    print(f"planned {planned / 1e6:.0f} MB, recorded {recorded / 1e6:.0f}, resident {resident / 1e6:.0f}")

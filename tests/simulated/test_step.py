"""What a step of many ranks sends, and how many operators it runs, stays within bounds; simulated."""

import json
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

from tests.commands import ROOT

pytestmark = pytest.mark.long
PRESETS = (
    "imagenet64_m3r",
    *(
        pytest.param(name, marks=pytest.mark.faults)
        for name in ("imagenet64_l3r", "imagenet256_xl2r", "imagenet512_xl3r", "imagenet256_g2r")
    ),
)
FORWARD, BACKWARD = 55, 100
"""The most operators for each block and image size more; measured 46 and 86."""


@cache
def step(preset: str, world_size: int, sharding: str, depth: int) -> dict[str, Any]:
    words = ["-m", "orchestrator.benchmarks.scale.step", preset, str(world_size), sharding, str(depth)]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def check_collectives(found: dict[str, Any], world_size: int, shards: int) -> None:
    """Weights are gathered and gradients reduced once a step, unit by unit; most weights as bf16."""
    units, weights = found["units"], found["weights"]
    assert found["collectives"]["all_gather"] == units
    assert found["collectives"]["reduce_scatter"] == units
    assert found["bytes"]["reduce_scatter"] == pytest.approx(weights, rel=0.02)
    assert found["sent"] < 0.7 * weights
    assert found["bytes"]["all_gather"] == pytest.approx(found["sent"], rel=0.02)
    if shards < world_size:
        # Between nodes go the shards alone.
        assert found["collectives"]["all_reduce"] == units
        assert found["bytes"]["all_reduce"] == pytest.approx(weights / shards, rel=0.02)


@pytest.mark.parametrize("preset", PRESETS)
def test_each_block_adds_so_many_operators_and_the_update_none(preset: str) -> None:
    small, large = step(preset, 8, "shard", 3), step(preset, 8, "shard", 5)
    check_collectives(small, 8, 8)
    check_collectives(large, 8, 8)
    more = large["parts"] - small["parts"]
    rows = {part: large["operators"][part] - small["operators"][part] for part in small["operators"]}
    micro_batches = small["micro_batches"]
    assert 0 < rows["forward"] <= FORWARD * more * micro_batches
    assert 0 < rows["backward"] <= BACKWARD * more * micro_batches
    assert rows["optimizer"] == rows["ema"] == 0
    assert large["operators"]["optimizer"] + large["operators"]["ema"] <= 30


@pytest.mark.parametrize("world_size", [64, 1024])
def test_hybrid_sharding_sends_shards_between_nodes(world_size: int) -> None:
    check_collectives(step("imagenet256_g2r", world_size, "hybrid", 3), world_size, 8)


@pytest.mark.faults
@pytest.mark.parametrize("sharding", ["shard", "hybrid"])
def test_the_largest_network_at_full_depth_on_64_gpus(sharding: str) -> None:
    found = step("imagenet256_g2r", 64, sharding, 0)
    check_collectives(found, 64, 8 if sharding == "hybrid" else 64)
    assert found["weights"] == 4 * 1_056_352_904
    # The root unit, gathered before anything can begin, is a tenth of the weights.
    assert found["root_bytes"] < 0.1 * found["weights"]
    assert found["operators"]["forward"] / found["parts"] / found["micro_batches"] < FORWARD

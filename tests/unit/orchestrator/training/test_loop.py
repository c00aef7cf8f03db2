"""The held-out loss goes through the network in parts of one size, and every row counts once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from orchestrator.data.format import DatasetInfo
from orchestrator.data.stream import Batch
from orchestrator.training import loop
from orchestrator.training.loop import held_out_losses
from orchestrator.training.parallelize import make_mesh
from orchestrator.training.state import fresh_state
from tests.configs import tiny


@pytest.fixture
def process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_a_short_last_part_is_filled_up_and_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = DatasetInfo(kind="pixels", shape=(1, 2, 2), source="", num_images=10, class_names=("0", "1", "2"))
    pixels = np.random.default_rng(0).integers(0, 256, (10, 1, 2, 2)).astype(np.uint8)
    held_out = Batch(pixels, np.arange(10) % 3, np.arange(10), np.zeros(10, bool))
    config = tiny(tmp_path, "data", train={"batch_size": 8, "micro_batches": 2})
    state = fresh_state(config, make_mesh(config.train, "cpu", 1, 1), torch.device("cpu"))
    sizes: list[int] = []
    forward = loop.forward_losses

    def noting(config: Any, state: Any, draws: Any, schedule: Any) -> Any:
        sizes.append(len(draws.labels))
        return forward(config, state, draws, schedule)

    monkeypatch.setattr(loop, "forward_losses", noting)
    in_parts = held_out_losses(config, info, state, held_out)
    assert sizes == [4, 4, 4]
    whole = tiny(tmp_path, "data", train={"batch_size": 80})
    at_once = held_out_losses(whole, info, state, held_out)
    assert in_parts == pytest.approx(at_once, rel=1e-5)

"""A training step of one of many ranks on tensors without memory: counts operators and collectives.

``python -m orchestrator.benchmarks.scale.step PRESET WORLD_SIZE SHARDING DEPTH`` prints a line of JSON. A
process group that only pretends stands for the other ranks. DEPTH 0 is the preset's own depth. The tensors
are a CPU's, because those of a GPU want a driver.
"""

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dimr_model import DiMR
from dimr_model.ema import EMA
from orchestrator.config.command_line import parse
from orchestrator.config.schema import ExperimentConfig
from orchestrator.planning.trace import moves_nothing
from orchestrator.training.optimizer import build_optimizer
from orchestrator.training.parallelize import bytes_as_bf16, make_mesh, parallelize, sharded_units
from orchestrator.training.state import TrainState
from orchestrator.training.step import Draws, train_step
from orchestrator.training.timing import Stopwatch

CPU = torch.device("cpu")
GPUS_PER_NODE = 8
COLLECTIVES = {
    "_allgather_base_": "all_gather", "_reduce_scatter_base_": "reduce_scatter", "allreduce_": "all_reduce",
    "all_reduce": "all_reduce", "all_gather_into_tensor": "all_gather",
    "reduce_scatter_tensor": "reduce_scatter",
}  # fmt: skip


class Counts(TorchDispatchMode):
    """Counts operators by the part of the step, and collectives with the bytes that come out of them."""

    def __init__(self) -> None:
        super().__init__()
        self.part = ""
        self.operators: Counter[str] = Counter()
        self.collectives: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and count it."""
        if func is torch.ops.aten._local_scalar_dense.default:
            dtype = args[0].dtype
            return False if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1
        result = func(*args, **(kwargs or {}))
        room, _, name = func._schema.name.partition("::")
        if name in COLLECTIVES:
            kind = COLLECTIVES[name]
            self.collectives[kind] += 1
            larger = [leaf.nbytes for leaf in tree_leaves((args, result)) if isinstance(leaf, torch.Tensor)]
            self.bytes[kind] += max(larger)
        elif room == "aten" and not moves_nothing(func):
            self.operators[self.part] += 1
        return result


class Parts(Stopwatch):
    """Tells the counts which part of the step it is."""

    def __init__(self, counts: Counts) -> None:
        super().__init__(CPU)
        self._counts = counts

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside for ``name``."""
        before, self._counts.part = self._counts.part, name
        yield
        self._counts.part = before


def config_of(preset: str, world_size: int, sharding: Any, depth: int) -> ExperimentConfig:
    """The preset for so many workers, not compiled."""
    config = parse("Count.", preset, [])
    depths = (depth,) * config.model.num_branches if depth else config.model.depths
    share = config.train.batch_size // world_size
    train = dataclasses.replace(
        config.train, workers=world_size, sharding=sharding, compile=False, use_gpu=False, warmup_images=0,
        micro_batches=min(config.train.micro_batches, share),
    )  # fmt: skip
    model = dataclasses.replace(config.model, depths=depths)
    data = dataclasses.replace(config.data, lanes=max(config.data.lanes, world_size))
    return dataclasses.replace(config, data=data, model=model, train=train)


def main(preset: str, world_size: int, sharding: str, depth: int) -> None:
    """Print what the second step of the first rank does."""
    config = config_of(preset, world_size, sharding, depth)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)
    mesh = make_mesh(config.train, "cpu", world_size, GPUS_PER_NODE)
    counts = Counts()
    with torch.autograd.set_multithreading_enabled(False), FakeTensorMode(), counts:
        model = DiMR(config.model).train()
        weights = sum(p.nbytes for p in model.parameters())
        sent = bytes_as_bf16(model, model.parameters()) if config.train.precision == "bf16" else weights
        blocks = len(model.units)
        sharded = sharded_units(model)
        root = weights - sum(p.nbytes for unit in sharded for p in unit.parameters())
        state = TrainState(
            parallelize(model, mesh, config.train), build_optimizer(model, config.train), EMA(model), CPU
        )
        images = config.train.batch_size // world_size
        shape = (images, config.model.channels, config.model.input_size, config.model.input_size)
        steps, labels = (torch.ones(images, dtype=torch.int64) for _ in range(2))
        draws = Draws(torch.empty(shape), torch.empty(shape), steps, labels)
        process = config.diffusion.make_process()
        for _ in range(2):
            for counter in (counts.operators, counts.collectives, counts.bytes):
                counter.clear()
            train_step(config, state, draws, process, Parts(counts))
    print(
        json.dumps(
            {
                "operators": counts.operators, "collectives": counts.collectives, "bytes": counts.bytes,
                "weights": weights, "sent": sent, "root_bytes": root, "parts": blocks,
                "units": len(sharded) + 1, "micro_batches": config.train.micro_batches,
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))

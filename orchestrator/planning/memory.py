"""Memory of one worker at the worst moment of a step, by a trace of the step and the way it is sharded."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from orchestrator.config.schema import ExperimentConfig
from orchestrator.planning.trace import BACKWARD, BEFORE, StepTrace

WEIGHTS, GRADIENTS, MOMENTS, AVERAGE = "weights", "gradients", "moments", "EMA"
GATHERED = "gathered weights"
REDUCED = "gradients being reduced"
CAST = "weights cast to bf16"
TEMPORARY = "temporaries"


@dataclass(frozen=True)
class Memory:
    """What a worker holds when it holds most."""

    parts: dict[str, int]
    """Bytes by what they are for."""
    moment: str
    """When it holds most: in the backward pass or in the optimizer's step."""

    @property
    def total(self) -> int:
        """Bytes of all tensors; a GPU's context and its allocator's unused pieces come on top."""
        return sum(self.parts.values())


def worker_memory(config: ExperimentConfig, trace: StepTrace, shards: int) -> Memory:
    """The peak of every step but the first, in which the optimizer's moments are not there yet.

    Args:
        config: decides batch, workers and micro-batches.
        trace: the trace of the same network with the same recomputation.
        shards: workers among which weights, gradients, moments and moving average are divided.
    """
    images = config.train.batch_size // max(1, config.train.workers) // config.train.micro_batches
    held = sum(trace.unit_sizes) // shards
    kept = Counter({WEIGHTS: held, MOMENTS: trace.moments // shards, AVERAGE: held})
    sends_bf16 = config.train.precision == "bf16" and config.train.workers > 1
    passes = _timeline(trace, shards, config.train.micro_batches > 1, sends_bf16).worst(images)
    # On a CPU AdamW works on all tensors of a group at once, and its roots of their second moments are
    # temporaries. On a GPU one kernel does it all.
    roots = 0 if config.train.use_gpu else max(trace.group_sizes) // shards
    update = Counter({GRADIENTS: held, TEMPORARY: roots})
    worst, moment = max(
        (passes, "backward pass"), (update, "optimizer's step"), key=lambda one: one[0].total()
    )
    return Memory({name: size for name, size in (kept + worst).items() if size}, moment)


@dataclass(frozen=True)
class _Timeline:
    """What a micro-batch adds and takes away, change by change."""

    names: list[str]
    """What each change is for."""
    fixed: npt.NDArray[np.int64]
    """Bytes of each change that do not depend on the batch."""
    per_image: npt.NDArray[np.int64]
    """Bytes of each change for each image."""

    def worst(self, images: int) -> Counter[str]:
        """What is held at the moment at which most is held, for so many images."""
        changes = self.fixed + images * self.per_image
        end = int(np.argmax(np.cumsum(changes))) + 1
        live = Counter[str]()
        for name, size in zip(self.names[:end], changes[:end].tolist(), strict=True):
            live[name] += size
        return live


@lru_cache
def _timeline(trace: StepTrace, shards: int, accumulates: bool, sends_bf16: bool) -> _Timeline:
    names, fixed, per_image = zip(*_changes(trace, shards, accumulates, sends_bf16), strict=True)
    return _Timeline(list(names), np.array(fixed), np.array(per_image))


def _changes(
    trace: StepTrace, shards: int, accumulates: bool, sends_bf16: bool
) -> Iterator[tuple[str, int, int]]:
    """Follow the last micro-batch's memory: (what for, bytes, bytes for each image) of every change.

    Weights, moments and moving average are left out. The rest is as FSDP2 does it without resharding after
    the forward pass. A unit's weights are gathered when it is entered, and freed when its gradients are
    there. The gradients are copied to one buffer, which is reduced to the worker's part and kept until the
    next unit's. Gradients of earlier micro-batches wait in full. Weights that are sent as bf16 need no copy.
    """
    full, reducing = trace.unit_sizes, 0
    gathered = trace.bf16_unit_sizes if sends_bf16 else full
    awaited = Counter(a.unit for a in trace.allocations if a.unit is not None)
    if accumulates:
        yield GRADIENTS, sum(full), 0
    for event in trace.events:
        if event.kind == "enter":
            yield GATHERED, gathered[event.index], 0
            continue
        allocation = trace.allocations[event.index]
        size, unit = (allocation.fixed_size, allocation.size_per_image), allocation.unit
        if allocation.place == BEFORE or (sends_bf16 and allocation.is_copy):
            continue
        if unit is None:
            sign = 1 if event.kind == "allocate" else -1
            yield _name(allocation.place, size[0] > 0), sign * size[0], sign * size[1]
        elif event.kind == "allocate":
            yield GRADIENTS, *size
            if accumulates:
                yield GRADIENTS, -size[0], -size[1]  # It is added to the one that waits.
            awaited[unit] -= 1
            if not awaited[unit]:
                yield GATHERED, -gathered[unit], 0
                yield REDUCED, full[unit] - reducing, 0
                reducing = full[unit]
                yield GRADIENTS, full[unit] // shards, 0
                yield GRADIENTS, -full[unit], 0


def _name(place: int, is_fixed: bool) -> str:
    if place == BACKWARD:
        return TEMPORARY
    if place < 0:
        return "inputs and loss"
    return CAST if is_fixed else f"activations, branch {place}"

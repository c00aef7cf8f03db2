"""Memory of one worker at the worst moment of a step, from a trace of the step and the way it is sharded."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.config import ExperimentConfig
from orchestrator.planning.trace import BACKWARD, BEFORE, StepTrace

WEIGHTS, GRADIENTS, MOMENTS, AVERAGE = "weights", "gradients", "Adam's moments", "EMA"
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
    """When that is: in the backward pass or in the optimizer's step."""

    @property
    def total(self) -> int:
        """Bytes of all tensors; a GPU's context and its allocator's unused pieces come on top."""
        return sum(self.parts.values())


def worker_memory(config: ExperimentConfig, trace: StepTrace, shards: int) -> Memory:
    """The peak of a step, from the second one on, when the moments are there.

    Args:
        config: decides batch, workers and micro-batches.
        trace: of the same network and recomputation.
        shards: workers among which weights, gradients, moments and moving average are divided.
    """
    images = config.train.batch_size // max(1, config.train.workers) // config.train.micro_batches
    held = sum(trace.unit_sizes) // shards
    kept = Counter({WEIGHTS: held, MOMENTS: 2 * held, AVERAGE: held})
    passes = _worst(_passes(trace, images, shards, config.train.micro_batches > 1))
    # AdamW works on all tensors of a group at once, and takes the root of all their second moments.
    update = Counter({GRADIENTS: held, TEMPORARY: max(trace.group_sizes) // shards})
    worst, moment = max((passes, "backward pass"), (update, "optimizer's step"), key=lambda one: _total(one[0]))
    return Memory({name: size for name, size in (kept + worst).items() if size}, moment)


def _worst(moments: Iterator[Counter[str]]) -> Counter[str]:
    """A copy of the largest; the moments are one counter that changes."""
    largest, worst = -1, Counter[str]()
    for live in moments:
        if _total(live) > largest:
            largest, worst = _total(live), live.copy()
    return worst


def _total(parts: Counter[str]) -> int:
    return sum(parts.values())


def _passes(trace: StepTrace, images: int, shards: int, accumulates: bool) -> Iterator[Counter[str]]:
    """What is held beside weights, moments and moving average at every moment of the last micro-batch.

    As FSDP2 does it without resharding after the forward pass: a unit's weights are gathered when it is entered and freed
    when its gradients are there; these are copied to one buffer, which is reduced to the worker's part and kept until
    the next unit's. Gradients of earlier micro-batches wait in full.
    """
    sizes, live = trace.unit_sizes, Counter[str]()
    if accumulates:
        live[GRADIENTS] = sum(sizes)
    waiting = [sum(a.unit == unit for a in trace.allocations) for unit in range(len(sizes))]
    reducing = 0
    for event in trace.events:
        if event.kind == "enter":
            live[GATHERED] += sizes[event.index]
        else:
            allocation = trace.allocations[event.index]
            if allocation.place == BEFORE:
                continue
            size = allocation.fixed_size + images * allocation.size_per_image
            if allocation.unit is not None:
                if event.kind == "free":
                    continue
                waiting[allocation.unit] -= 1
                live[GRADIENTS] += size
                yield live
                if accumulates:
                    live[GRADIENTS] -= size  # It was added to the one that waits.
            else:
                name = _name(allocation.place, allocation.fixed_size > 0)
                live[name] += size if event.kind == "allocate" else -size
        yield live
        if event.kind == "allocate" and allocation.unit is not None and not waiting[allocation.unit]:
            full = sizes[allocation.unit]
            live[GATHERED] -= full
            live[REDUCED] += full - reducing
            reducing = full
            live[GRADIENTS] += full // shards
            yield live
            live[GRADIENTS] -= full


def _name(place: int, is_fixed: bool) -> str:
    if place == BACKWARD:
        return TEMPORARY
    if place < 0:
        return "inputs and loss"
    return CAST if is_fixed else f"activations, branch {place}"

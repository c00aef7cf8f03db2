"""A training step on tensors without memory: what it allocates and frees, in order, and how much it computes.

The forward pass, the loss and the backward pass are those of training (:mod:`orchestrator.training.step`);
only the tensors are fake. They stand for a CPU's, because torch then needs no GPU to say which of them a GPU
would keep.
"""

import gc
import logging
import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from dimr_model import DiMR
from dimr_model.diffusion import multi_scale_loss
from dimr_model.ema import EMA
from orchestrator.config.schema import ExperimentConfig
from orchestrator.training.optimizer import build_optimizer
from orchestrator.training.parallelize import bytes_as_bf16, sharded_units
from orchestrator.training.state import TrainState
from orchestrator.training.step import Draws, forward_losses

FP32_BYTES = 4
VIEWS = (
    "_unsafe_view",
    "detach",
    "empty",
    "empty_like",
    "new_empty",
    "alias",
    "lift_fresh",
    "_local_scalar_dense",
)
"""Operators that touch no memory, beside those of which torch says so."""
TRACED_BATCH = 8191
"""A prime that is a factor of no width, resolution or number of classes: sizes that it divides grow with the
batch."""
BEFORE, BACKWARD, ELSEWHERE = -1, -2, -3
"""Places outside of the branches: before the step, in the backward pass, in the loss."""


@dataclass
class Allocation:
    """Memory of one tensor, or of several that share it."""

    fixed_size: int
    """Bytes that do not depend on the batch."""
    size_per_image: int
    """Bytes for each image of the micro-batch."""
    place: int
    """Branch whose forward pass made it, or one of ``BEFORE``, ``BACKWARD``, ``ELSEWHERE``."""
    unit: int | None = None
    """For a gradient: the unit of sharding that its parameter belongs to."""
    is_copy: bool = False
    """Whether it is a bf16 copy of weights that workers send each other as bf16."""


@dataclass(frozen=True)
class Event:
    """Something that happens to memory."""

    kind: str
    """``allocate`` and ``free`` of an allocation, ``enter`` of a unit of sharding."""
    index: int
    """Number of the allocation or of the unit."""


@dataclass(frozen=True, eq=False)
class Operators:
    """What each operator of a step does that reads or writes memory, in order."""

    fixed_bytes: npt.NDArray[np.int64]
    """Bytes of its inputs and outputs that do not depend on the batch."""
    bytes_per_image: npt.NDArray[np.int64]
    """The same for each image of the micro-batch."""
    flops_per_image: npt.NDArray[np.int64]
    """Floating-point operations, where it is a matrix product, a convolution or attention."""
    is_forward: npt.NDArray[np.bool_]
    """Whether it belongs to the forward pass."""

    def forward(self) -> "Operators":
        """Those of the forward pass."""
        kept = self.is_forward
        return Operators(
            self.fixed_bytes[kept], self.bytes_per_image[kept], self.flops_per_image[kept], kept[kept]
        )


@dataclass(eq=False)
class StepTrace:
    """What one micro-batch's forward and backward pass does, in order."""

    allocations: list[Allocation] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    costs: list[tuple[int, int, int, bool]] = field(default_factory=list)
    """A row of :class:`Operators` for each."""
    flops_per_image: int = 0
    """Floating-point operations of matrix products, convolutions and attention, recomputed ones included."""
    forward_flops_per_image: int = 0
    """Floating-point operations of the forward pass alone."""
    unit_sizes: list[int] = field(default_factory=list)
    """Bytes of the weights that are gathered together: of each unit, then of the rest."""
    bf16_unit_sizes: list[int] = field(default_factory=list)
    """The same where weights are sent as bf16 (:func:`orchestrator.training.parallelize.parallelize`)."""
    moments: int = 0
    """Bytes of the optimizer's moments: two for each weight, one for those that Muon updates."""
    group_sizes: list[int] = field(default_factory=list)
    """Bytes of the weights in each of the optimizer's groups."""

    @property
    def parameters(self) -> int:
        """The number of weights, which are float32."""
        return sum(self.unit_sizes) // FP32_BYTES

    @cached_property
    def operators(self) -> Operators:
        """What each operator does."""
        fixed, per_image, flops, is_forward = zip(*self.costs, strict=True)
        return Operators(*(np.array(column) for column in (fixed, per_image, flops, is_forward)))


@cache
def trace_step(config: ExperimentConfig) -> StepTrace:
    """Trace the forward and backward pass of one micro-batch of any size on one worker, unsharded."""
    recorder = _Recorder()
    with _no_warning_of_emulation(), _no_collection(), FakeTensorMode(), recorder:
        model = DiMR(config.model).train()
        model.recompute([branch in config.train.recompute_branches for branch in range(len(model.branches))])
        units = _units(model)
        trace = recorder.trace
        trace.unit_sizes = [sum(p.nbytes for p in unit) for unit in units]
        trace.bf16_unit_sizes = [bytes_as_bf16(model, unit) for unit in units]
        recorder.sent = {id(p.untyped_storage()) for p in model.bf16_parameters}
        optimizer = build_optimizer(model, config.train)
        trace.group_sizes = [sum(p.nbytes for p in group["params"]) for group in optimizer.param_groups]
        trace.moments = sum(
            size * (1 if group.get("matrices") else 2)
            for size, group in zip(trace.group_sizes, optimizer.param_groups, strict=True)
        )
        _follow(model, recorder, trace)
        # The moving average is not part of the pass, so it gets no copy here.
        state = TrainState(model, optimizer, EMA(nn.Module()), torch.device("cpu"))
        shape = (TRACED_BATCH, config.model.channels, config.model.input_size, config.model.input_size)
        clean, noise = torch.empty(shape), torch.empty(shape)
        step, labels = (torch.ones(TRACED_BATCH, dtype=torch.int64) for _ in range(2))
        draws = Draws(clean, noise, step, labels)
        recorder.place = ELSEWHERE
        losses = forward_losses(config, state, draws, config.diffusion.make_process())
        loss = multi_scale_loss(losses, config.diffusion.multi_scale_loss).mean()
        recorder.place = BACKWARD
        loss.backward()
        for number, unit in enumerate(units):
            for parameter in unit:
                recorder.find(parameter.grad).unit = number
        recorder.stop()
    return trace


def _units(model: DiMR) -> list[list[nn.Parameter]]:
    """Parameters that are gathered together: those of each sharded unit, then all others."""
    units = [list(unit.parameters()) for unit in sharded_units(model)]
    own = {id(p) for unit in units for p in unit}
    return [*units, [p for p in model.parameters() if id(p) not in own]]


def _follow(model: DiMR, recorder: "_Recorder", trace: StepTrace) -> None:
    """Note where allocations happen, and when units are entered."""

    def at_place(place: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            recorder.place = place

        return hook

    def entering(unit: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            # The backward pass enters a block again to recompute it, but its weights are still there.
            if recorder.place != BACKWARD:
                trace.events.append(Event("enter", unit))

        return hook

    for number, branch in enumerate(model.branches):
        branch.register_forward_pre_hook(at_place(number))
        branch.register_forward_hook(at_place(ELSEWHERE))
    for number, module in enumerate([*sharded_units(model), model]):
        module.register_forward_pre_hook(entering(number))


class _Recorder(TorchDispatchMode):
    """Notes every storage that an operator returns, and when it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.trace, self.place = StepTrace(), BEFORE
        self.sent: set[int] = set()
        """Storages of the weights that workers send each other as bf16."""
        self._alive: dict[int, tuple[int, weakref.ref[Any]]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            # The code looks at a number, which fake tensors do not have. False ends the loop that draws a
            # truncated normal.
            dtype = args[0].dtype
            return False if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1
        result = func(*args, **(kwargs or {}))
        flops = _flops(func, args, kwargs or {}, result) // TRACED_BATCH
        if self.place != BEFORE and not moves_nothing(func):
            moved = (_split(_bytes_of(leaf)) for leaf in tree_leaves((args, kwargs, result)))
            fixed, per_image = map(sum, zip(*moved, strict=True))
            self.trace.costs.append((fixed, per_image, flops, self.place != BACKWARD))
        self.trace.flops_per_image += flops
        self.trace.forward_flops_per_image += flops if self.place != BACKWARD else 0
        is_copy = func is torch.ops.aten._to_copy.default and id(args[0].untyped_storage()) in self.sent
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf, is_copy)
        return result

    def find(self, tensor: Tensor | None) -> Allocation:
        """The allocation that holds a tensor."""
        assert tensor is not None
        return self.trace.allocations[self._alive[id(tensor.untyped_storage())][0]]

    def stop(self) -> None:
        """Note nothing that is freed from now on."""
        self._alive.clear()

    def _note(self, tensor: Tensor, is_copy: bool) -> None:
        storage = tensor.untyped_storage()
        key, index = id(storage), len(self.trace.allocations)
        if key in self._alive:
            return
        self.trace.allocations.append(Allocation(*_split(storage.nbytes()), self.place, is_copy=is_copy))
        self.trace.events.append(Event("allocate", index))

        def freed(_: Any) -> None:
            if self._alive.pop(key, None) is not None:
                self.trace.events.append(Event("free", index))

        self._alive[key] = (index, weakref.ref(storage, freed))


def _split(size: int) -> tuple[int, int]:
    """Bytes that do not depend on the batch, and bytes for each image: one of them is 0."""
    per_image, rest = divmod(size, TRACED_BATCH)
    return (size, 0) if rest else (0, per_image)


def _bytes_of(value: Any) -> int:
    """Bytes of a tensor in memory; what is only repeated by its strides counts once."""
    if not isinstance(value, Tensor):
        return 0
    repeated = math.prod(size for size, stride in zip(value.shape, value.stride(), strict=True) if stride)
    return repeated * value.element_size()


def moves_nothing(func: Any) -> bool:
    """Whether an operator only looks at memory in another way, or makes room."""
    room, _, name = func._schema.name.partition("::")
    return func.is_view or room == "prim" or name in VIEWS


@contextmanager
def _no_collection() -> Iterator[None]:
    """Switch garbage collection off, so that nothing is freed at moments that chance decides."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def _no_warning_of_emulation() -> Iterator[None]:
    """Keep back the warning that this CPU emulates bf16: nothing is computed here."""
    logger = logging.getLogger("orchestrator.precision")
    logger.disabled, before = True, logger.disabled
    try:
        yield
    finally:
        logger.disabled = before


def _flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int:
    packet = func._overloadpacket
    if packet is torch.ops.aten.convolution_backward:
        # Torch's own count takes a depthwise convolution for a dense one.
        gradient, _, weight = args[:3]
        toward_input, toward_weight, _ = args[-1]
        products = gradient.numel() * weight.numel() // weight.shape[0]
        return int(2 * products * (toward_input + toward_weight))
    formula = flop_registry.get(packet)
    return int(formula(*args, **kwargs, out_val=result)) if formula else 0

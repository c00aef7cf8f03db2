"""Muon for matrices, each of which is orthogonalized by one of the workers that share it."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

# What torch.optim.Muon is made of: it takes neither shards nor three matrices in one parameter.
from torch.optim import _muon

from dimr_model.ema import own_parts
from orchestrator.training.adamw import ShardAdamW

MOMENTUM = 0.95
"""Torch's default."""


class ShardMuon(ShardAdamW):
    """Muon (Jordan et al., 2024) for the groups of matrices, AdamW for the others.

    Newton and Schulz's iteration needs a whole matrix. The workers that share a mesh's shards divide the
    matrices among them: each puts its own together, orthogonalizes them, and sends the parts back. The bits
    are those of ``torch.optim.Muon(momentum=0.95, adjust_lr_fn="match_rms_adamw")``. The iteration computes
    in bf16, so the same gradients give the same update at any world size, but gradients that were summed in
    another order give one that differs more than AdamW's would.

    A group's ``matrices`` says into how many matrices, one below the other, each of its parameters is cut: 3
    for queries, keys and values; 0 for AdamW.
    """

    def _init_group(self, group: dict[str, Any], *lists: list[Tensor]) -> bool:
        # AdamW has nothing to do where its lists stay empty.
        return False if group["matrices"] else super()._init_group(group, *lists)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # AdamW's own would look for its moments in the state of every parameter.
        torch.optim.Optimizer.__setstate__(self, state)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Do an update of all groups; collective where parameters are sharded."""
        loss = super().step(closure)
        found = [
            (group, parameter)
            for group in self.param_groups
            if group["matrices"]
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        updates = [self._nesterov(parameter) for _, parameter in found]
        counts = [group["matrices"] for group, _ in found]
        directions = orthogonalized(updates, [parameter for _, parameter in found], counts)
        for (group, parameter), direction in zip(found, directions, strict=True):
            (own,) = own_parts([parameter])
            own.mul_(1 - group["lr"] * group["weight_decay"])
            shape = torch.Size((len(parameter) // group["matrices"], parameter.shape[1]))
            own.add_(direction, alpha=-_muon._adjust_lr(group["lr"], "match_rms_adamw", shape))
        return loss

    def _nesterov(self, parameter: Tensor) -> Tensor:
        """This worker's part of what is orthogonalized."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        gradient, momentum = own_parts([parameter.grad, state["momentum_buffer"]])
        momentum.lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(momentum, MOMENTUM)


def orthogonalized(parts: list[Tensor], of: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
    """Orthogonalize matrices of which this worker holds rows; returns its rows of the results; collective.

    Args:
        of: the parameters, which say how each matrix is shared.
        counts: into how many matrices each is cut, one below the other.
    """
    group = of[0].device_mesh.get_group(-1) if of and isinstance(of[0], DTensor) else None
    world_size = 1 if group is None else dist.get_world_size(group)
    if world_size == 1:
        return [_orthogonalized(part, count) for part, count in zip(parts, counts, strict=True)]
    me, shapes = dist.get_rank(group), [matrix.shape for matrix in of]
    owned = _divided(shapes, world_size)
    rows = [[_rows(shape[0], worker, world_size) for worker in range(world_size)] for shape in shapes]

    sent = [[parts[n] for n in owned[worker]] for worker in range(world_size)]
    mine = [[(rows[n][worker], shapes[n][1]) for n in owned[me]] for worker in range(world_size)]
    received = _exchanged(sent, mine, parts[0], group)
    results = [
        _orthogonalized(torch.cat(pieces), counts[n]).split(rows[n])
        for n, pieces in zip(owned[me], zip(*received, strict=True), strict=True)
    ]
    sent = [[result[worker] for result in results] for worker in range(world_size)]
    own = [[(rows[n][me], shapes[n][1]) for n in owned[worker]] for worker in range(world_size)]
    back = _exchanged(sent, own, parts[0], group)
    found: dict[int, Tensor] = {}
    for numbers, pieces in zip(owned, back, strict=True):
        found |= zip(numbers, pieces, strict=True)
    return [found[n] for n in range(len(parts))]


def _orthogonalized(matrices: Tensor, count: int) -> Tensor:
    coefficients = (_muon.DEFAULT_A, _muon.DEFAULT_B, _muon.DEFAULT_C)
    steps, eps = _muon.DEFAULT_NS_STEPS, _muon.EPS
    return torch.cat(
        [_muon._zeropower_via_newtonschulz(one, coefficients, steps, eps) for one in matrices.chunk(count)]
    )


def _divided(shapes: Sequence[torch.Size], workers: int) -> list[list[int]]:
    """Numbers of the matrices of each worker, so that all have about as much to multiply."""
    costs = [shape.numel() * min(shape) for shape in shapes]
    load, owned = [0] * workers, [[] for _ in range(workers)]  # type: tuple[list[int], list[list[int]]]
    for number in sorted(range(len(shapes)), key=lambda n: (-costs[n], n)):
        worker = load.index(min(load))
        load[worker] += costs[number]
        owned[worker].append(number)
    return owned


def _rows(rows: int, worker: int, workers: int) -> int:
    """Rows that a worker holds of a tensor which is sharded over its first dimension, as DTensor cuts it."""
    each = -(-rows // workers)
    return max(0, min(each, rows - worker * each))


def _exchanged(
    sent: list[list[Tensor]],
    shapes: list[list[tuple[int, int]]],
    like: Tensor,
    group: dist.ProcessGroup | None,
) -> list[list[Tensor]]:
    """Send ``sent[w]`` to each worker w, and return what each has sent, of ``shapes[w]``; collective."""
    # A worker that owns no matrix sends nothing back.
    flat = torch.cat([like.new_empty(0), *(piece.flatten() for pieces in sent for piece in pieces)])
    lengths = [sum(piece.numel() for piece in pieces) for pieces in sent]
    sizes = [[rows * columns for rows, columns in of_one] for of_one in shapes]
    totals = [sum(of_one) for of_one in sizes]
    got = flat.new_empty(sum(totals))
    dist.all_to_all_single(got, flat, totals, lengths, group=group)
    return [
        [piece.view(shape) for piece, shape in zip(buffer.split(of_one), of_shapes, strict=True)]
        for buffer, of_one, of_shapes in zip(got.split(totals), sizes, shapes, strict=True)
    ]

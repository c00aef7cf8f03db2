"""How one model becomes many shards, unit by unit.

These are recomputation, compilation and FSDP2 over a device mesh.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from dimr_model import DiMR
from orchestrator.compilation import compile_units
from orchestrator.config.training import TrainConfig

SMALLEST_UNIT = 1_000_000
"""Parameters below which a unit is gathered with the rest.

A collective of its own would cost more time than it hides.
"""


def make_mesh(config: TrainConfig, device_type: str, world_size: int, workers_per_node: int) -> DeviceMesh:
    """Make a mesh of copies x shards; collective.

    Every worker holds ``1 / shards`` of weights, gradients, optimizer and EMA.

    Args:
        workers_per_node: the number of workers on this one's node.

    Raises:
        ValueError: hybrid sharding where the nodes do not hold equally many workers; on all ranks.
    """
    if config.sharding == "hybrid":
        # Ranks that made meshes of different shapes would wait for each other for ever.
        per_node: list[Any] = [None] * world_size
        dist.all_gather_object(per_node, workers_per_node)
        if len(set(per_node)) > 1:
            raise ValueError(_uneven(world_size, " and ".join(map(str, sorted(set(per_node))))))
    shards = count_shards(config, world_size, workers_per_node)
    if shards == world_size:
        return init_device_mesh(device_type, (world_size,), mesh_dim_names=("shard",))
    return init_device_mesh(
        device_type, (world_size // shards, shards), mesh_dim_names=("replicate", "shard")
    )


def count_shards(config: TrainConfig, world_size: int, workers_per_node: int) -> int:
    """The number of parts into which weights, gradients, optimizer and EMA are cut.

    Raises:
        ValueError: hybrid sharding where the nodes do not hold equally many workers.
    """
    shards = {"replicate": 1, "shard": world_size, "hybrid": workers_per_node}[config.sharding]
    if world_size % shards:
        raise ValueError(_uneven(world_size, str(workers_per_node)))
    return shards


def _uneven(world_size: int, per_node: str) -> str:
    return (
        f"train.sharding hybrid needs equally many workers on every node; {world_size} workers were placed "
        f"{per_node} to a node. Set train.workers to a multiple of a node's GPUs, or train.sharding to shard."
    )


def parallelize(
    model: DiMR, mesh: DeviceMesh, config: TrainConfig, smallest_unit: int = SMALLEST_UNIT
) -> DiMR:
    """Recompute, compile, then shard, in this order and in place.

    Parameters, gradients and optimizer state are sharded over ``mesh`` (CPU and gloo, or GPU and NCCL). Each
    unit's weights are gathered while the unit before it computes, and kept until the backward pass of the
    last micro-batch. Gradients, optimizer and EMA take most of the memory, so gathering twice would cost more
    than it saves.

    With ``train.precision`` bf16, weights that are used as bf16 are sent as bf16. So nothing changes but the
    bytes: gradients are added up and reduced in float32, and what a worker holds stays float32.
    """
    model.recompute([branch in config.recompute_branches for branch in range(len(model.branches))])
    if config.compile:
        compile_units(model, dynamic=False)
    policy = MixedPrecisionPolicy()
    if config.precision == "bf16" and mesh.size() > 1:
        policy = _sent_as_bf16({id(parameter) for parameter in model.bf16_parameters})
    units = sharded_units(model, smallest_unit)
    for unit in [*units, model]:
        fully_shard(unit, mesh=mesh, reshard_after_forward=False, mp_policy=policy)
    for unit, following in pairwise([model, *units]):
        cast(FSDPModule, unit).set_modules_to_forward_prefetch([cast(FSDPModule, following)])
    return model


def _sent_as_bf16(chosen: set[int]) -> MixedPrecisionPolicy:
    def dtype(parameter: nn.Parameter) -> torch.dtype:
        return torch.bfloat16 if id(parameter) in chosen else parameter.dtype

    return MixedPrecisionPolicy(
        param_dtype=torch.bfloat16,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
        param_dtype_override_fn=dtype,
    )


def bytes_as_bf16(model: DiMR, parameters: Iterable[nn.Parameter]) -> int:
    """Bytes of ``parameters`` on their way between workers that compute in bf16."""
    sent = {id(parameter) for parameter in model.bf16_parameters}
    return sum(p.nbytes // 2 if id(p) in sent else p.nbytes for p in parameters)


def sharded_units(model: DiMR, smallest_unit: int = SMALLEST_UNIT) -> list[nn.Module]:
    """The units whose weights are gathered on their own, each when the forward pass comes to it."""
    return [unit for unit in model.units if sum(p.numel() for p in unit.parameters()) >= smallest_unit]

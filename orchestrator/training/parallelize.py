"""How one model becomes many shards, block by block.

These are recomputation, compilation and FSDP2 over a device mesh.
"""

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

from dimr_model import DiMR
from dimr_model.blocks import ConvNeXtBlock, TransformerBlock
from orchestrator.config.schema import TrainConfig

SMALLEST_UNIT = 1_000_000
"""Parameters below which a block is gathered with the rest.

A collective of its own would cost more time than it hides.
"""


def make_mesh(config: TrainConfig, device_type: str, world_size: int, workers_per_node: int) -> DeviceMesh:
    """Make a mesh of copies x shards.

    Every worker holds ``1 / shards`` of weights, gradients, optimizer and EMA.

    Raises:
        ValueError: hybrid sharding where the nodes do not hold equally many workers.
    """
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
        raise ValueError(
            f"train.sharding hybrid needs equally many workers on every node; {world_size} workers were "
            f"placed {workers_per_node} to a node. Set train.workers to a multiple of a node's GPUs, or "
            "train.sharding to shard."
        )
    return shards


def parallelize(
    model: DiMR, mesh: DeviceMesh, config: TrainConfig, smallest_unit: int = SMALLEST_UNIT
) -> DiMR:
    """Recompute, compile, then shard, in this order and in place.

    Parameters, gradients and optimizer state are sharded over ``mesh`` (CPU and gloo, or GPU and NCCL). Each
    block's weights are gathered when the forward pass comes to it, and kept until its backward pass.
    Gradients, optimizer and EMA take most of the memory, so gathering twice would cost more than it saves.
    """
    model.recompute([branch in config.recompute_branches for branch in range(len(model.branches))])
    if config.compile:
        for block in model.blocks:
            block.compile(fullgraph=True)
    for block in sharded_blocks(model, smallest_unit):
        fully_shard(block, mesh=mesh, reshard_after_forward=False)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    return model


def sharded_blocks(model: DiMR, smallest_unit: int = SMALLEST_UNIT) -> list[TransformerBlock | ConvNeXtBlock]:
    """The blocks whose weights are gathered on their own, each when the forward pass comes to it."""
    return [block for block in model.blocks if sum(p.numel() for p in block.parameters()) >= smallest_unit]

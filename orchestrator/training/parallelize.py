"""How one model becomes many shards: recomputation, compilation and FSDP2 over a device mesh, block by block."""

from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from dimr_model import DiMR
from orchestrator.config import TrainConfig

SMALLEST_UNIT = 1_000_000
"""Parameters below which a block is gathered with the rest: a collective of its own would cost more than it hides."""


def parallelize(
    model: DiMR, mesh: DeviceMesh, config: TrainConfig, smallest_unit: int = SMALLEST_UNIT
) -> DiMR:
    """Recompute, compile, then shard, in this order and in place.

    Parameters, gradients and optimizer state are sharded over ``mesh`` (CPU and gloo, or GPU and NCCL). Each block's
    weights are gathered when the forward pass comes to it and kept until its backward pass: gradients, optimizer and
    EMA are what takes the memory, and gathering twice would cost more than it saves.
    """
    model.recompute([branch in config.recompute_branches for branch in range(len(model.branches))])
    for block in model.blocks:
        if config.compile:
            block.compile(fullgraph=True)
        if sum(p.numel() for p in block.parameters()) >= smallest_unit:
            fully_shard(block, mesh=mesh, reshard_after_forward=False)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    return model

"""How one model becomes many shards: FSDP2 over a device mesh, block by block."""

from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from dimr_model import DiMR
from dimr_model.blocks import ConvNeXtBlock, TransformerBlock

SMALLEST_UNIT = 1_000_000
"""Parameters below which a block is gathered with the rest: a collective of its own would cost more than it hides."""


def parallelize(model: DiMR, mesh: DeviceMesh, smallest_unit: int = SMALLEST_UNIT) -> DiMR:
    """Shard parameters, gradients and optimizer state over ``mesh`` (CPU and gloo, or GPU and NCCL), in place.

    Each block's weights are gathered when the forward pass comes to it and kept until its backward pass: gradients,
    optimizer and EMA are what takes the memory, and gathering twice would cost more than it saves.
    """
    blocks = [module for module in model.modules() if isinstance(module, (TransformerBlock, ConvNeXtBlock))]
    for block in blocks:
        if sum(p.numel() for p in block.parameters()) >= smallest_unit:
            fully_shard(block, mesh=mesh, reshard_after_forward=False)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    return model

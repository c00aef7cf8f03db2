"""How one model becomes many shards: FSDP2 over a device mesh, block by block."""

from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from dimr_model import DiMR
from dimr_model.blocks import ConvNeXtBlock, TransformerBlock


def parallelize(model: DiMR, mesh: DeviceMesh) -> DiMR:
    """Shard parameters, gradients and optimizer state over ``mesh`` (CPU and gloo, or GPU and NCCL), in place.

    Each block's weights are gathered when the forward pass comes to it and kept until its backward pass: gradients,
    optimizer and EMA are what takes the memory, and gathering twice would cost more than it saves.
    """
    for block in model.modules():
        if isinstance(block, (TransformerBlock, ConvNeXtBlock)):
            fully_shard(block, mesh=mesh, reshard_after_forward=False)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    return model

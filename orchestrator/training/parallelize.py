"""How one model becomes many shards: FSDP2 over a device mesh, block by block."""

from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from dimr_model import DiMR


def parallelize(model: DiMR, mesh: DeviceMesh) -> DiMR:
    """Shard parameters, gradients and optimizer state over ``mesh`` (CPU and gloo, or GPU and NCCL), in place.

    Each block gathers its weights when it is needed; what lies between the blocks is gathered once per pass.
    """
    for branch in model.branches:
        for block in branch.blocks:
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model

"""AdamW on shards."""

from typing import Any

import torch
from torch import Tensor

from dimr_model.ema import own_parts


class ShardAdamW(torch.optim.AdamW):
    """AdamW that computes on each worker's own shards, as plain tensors.

    Its numbers are those of AdamW on the sharded tensors, which would look up for each of them how to share
    the work. Its state stays sharded, under the same names. On a GPU one kernel does it all.
    """

    def _init_group(self, group: dict[str, Any], *lists: list[Tensor]) -> bool:
        has_complex = bool(super()._init_group(group, *lists))
        for tensors in lists:
            tensors[:] = own_parts(tensors)
        return has_complex

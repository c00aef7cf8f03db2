"""Random numbers from (seed, purpose, index), never from global state.

A counter-based generator (Philox) gives every item its own stream: what an item draws does not depend on which other
items are drawn, in which order, by which process, or after how many restarts.
"""

import hashlib

import numpy as np
import torch
from torch import Tensor


def generator(seed: int, purpose: str, index: int = 0, attempt: int = 0) -> np.random.Generator:
    """An independent stream for each (seed, purpose, index, attempt); all integers are non-negative."""
    key = int.from_bytes(hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest(), "little")
    # The low 128 bits of the counter count within a stream, the high ones name it.
    return np.random.Generator(np.random.Philox(key=key, counter=(index << 128) | (attempt << 192)))


def normal(seed: int, purpose: str, indices: list[int], shape: tuple[int, ...], attempt: int = 0) -> Tensor:
    """Standard normal noise ``[len(indices), *shape]`` float32 on the CPU, row i from ``indices[i]`` alone."""
    rows = np.empty((len(indices), *shape), dtype=np.float32)
    for row, index in zip(rows, indices, strict=True):
        generator(seed, purpose, index, attempt).standard_normal(dtype=np.float32, out=row)
    return torch.from_numpy(rows)


def uniform(seed: int, purpose: str, indices: list[int], attempt: int = 0) -> Tensor:
    """Uniform numbers in [0, 1), ``[len(indices)]`` float64 on the CPU, entry i from ``indices[i]`` alone."""
    return torch.tensor([generator(seed, purpose, index, attempt).random() for index in indices], dtype=torch.float64)

"""Speeds and memory of GPUs, by their data sheets."""

from typing import NamedTuple


class GPU(NamedTuple):
    """What NVIDIA's data sheet says of a GPU."""

    bf16_flops: float
    """Operations per second of dense bf16 matrix products."""
    fp32_flops: float
    """Operations per second of fp32 matrix products, without TF32."""
    memory: float
    """Bytes of GPU memory."""
    bandwidth: float
    """Bytes per second between GPU and memory."""


GPUS = {
    "H200": GPU(989e12, 67e12, 141e9, 4.8e12),
    "H100": GPU(989e12, 67e12, 80e9, 3.35e12),
    "A100": GPU(312e12, 19.5e12, 80e9, 2.04e12),
    "L40S": GPU(362e12, 91.6e12, 48e9, 864e9),
    "L4": GPU(121e12, 30.3e12, 24e9, 300e9),
    "V100": GPU(125e12, 15.7e12, 32e9, 900e9),
}

"""DiMR in PyTorch: multi-resolution diffusion networks with time-dependent layer normalization."""

from dimr_model.config import VARIANTS, DiMRConfig
from dimr_model.network import DiMR

__all__ = ["VARIANTS", "DiMR", "DiMRConfig"]

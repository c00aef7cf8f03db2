"""DiMR in PyTorch: multi-resolution diffusion networks with time-dependent layer normalization."""

from typing import TYPE_CHECKING, Any

from dimr_model.config import VARIANTS, DiMRConfig, Guidance, Sampler

if TYPE_CHECKING:
    from dimr_model.network import DiMR
    from dimr_model.pipeline import DiMRPipeline

__all__ = ["VARIANTS", "DiMR", "DiMRConfig", "DiMRPipeline", "Guidance", "Sampler"]


def __getattr__(name: str) -> Any:
    # Imported here, because the network brings torch, and the pipeline diffusers. That takes seconds, which
    # those who only read settings or data need not wait for.
    if name == "DiMR":
        from dimr_model.network import DiMR

        return DiMR
    if name == "DiMRPipeline":
        from dimr_model.pipeline import DiMRPipeline

        return DiMRPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

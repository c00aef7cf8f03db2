"""What a plan asks for besides the config."""

from dataclasses import dataclass

from orchestrator.training.gpus import GPUS


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """The options of a plan: what the config does not say."""

    gpu: str = "H100"
    """GPU of the workers: H200, H100, A100 (80 GB), L40S, L4 or V100 (32 GB)."""
    gpus_per_node: int = 8
    """GPUs of a machine; matters to train.sharding hybrid."""
    price: float | None = None
    """Price of one GPU (or CPU worker) for one hour, in whatever currency; null: no cost is printed."""
    mfu: float | None = None
    """Model FLOPs utilization, measured: train/mfu of a run, or what jobs/benchmark.py gpu and train print;
    null: estimated for a GPU, 0.4 for a CPU."""
    images_per_second_per_worker: float | None = None
    """Measured speed of training with this very config; instead of mfu."""

    def __post_init__(self) -> None:
        if self.gpu not in GPUS:
            raise ValueError(f"gpu {self.gpu!r} is unknown; use one of {', '.join(GPUS)}")
        if self.gpus_per_node < 1:
            raise ValueError(f"gpus_per_node {self.gpus_per_node} must be at least 1")
        if self.price is not None and not 0 < self.price < float("inf"):
            raise ValueError(f"price {self.price} must be positive: what one GPU costs for one hour")
        if self.mfu is not None and not 0 < self.mfu <= 1:
            raise ValueError(f"mfu {self.mfu} must be in (0, 1], for example 0.4")
        speed = self.images_per_second_per_worker
        if speed is not None and not 0 < speed < float("inf"):
            raise ValueError(f"images_per_second_per_worker {speed} must be positive")
        if self.mfu is not None and speed is not None:
            raise ValueError("give mfu or images_per_second_per_worker, not both: one follows from the other")

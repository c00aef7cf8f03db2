"""What the training loop calls while it runs, and how it ends early."""

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.checkpoints.selection import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Functions that the first rank calls while training goes on; all must return at once.

    Where it is said, all ranks call them.
    """

    on_metrics: Callable[[dict[str, float], int], None]
    """Called with metrics and images seen."""
    on_checkpoint: Callable[[Checkpoint], None]
    """Called when a checkpoint is complete."""
    on_step: Callable[[bool], None] = lambda is_last: None
    """Called on all ranks after every step, with whether it is the last."""
    on_rewound: Callable[[int], None] = lambda images_seen: None
    """Called where training went back to this point and goes on with other noise."""
    should_stop: Callable[[int], bool] = lambda images_seen: False
    """Asked after every step, with images seen: whether to write a checkpoint and end."""
    leaving_nodes: Callable[[], list[str]] = list
    """Asked on all ranks together every few seconds: nodes with workers that are about to be taken away."""


@dataclass
class DivergenceError(Exception):
    """Gradients are not finite any more, step after step."""

    images_seen: int
    attempt: int


@dataclass
class PreemptedError(Exception):
    """Nodes with workers are about to be taken away; a checkpoint was written at ``images_seen``."""

    images_seen: int
    nodes: list[str]

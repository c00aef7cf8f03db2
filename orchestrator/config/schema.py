"""The one experiment config, typed and nested; :mod:`orchestrator.config.command_line` reads it."""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path

from dimr_model.config import DiMRConfig
from dimr_model.objective import check_sampler
from orchestrator import storage
from orchestrator.config.data import DataConfig, PrepareConfig
from orchestrator.config.evaluation import EvaluationConfig, SamplingConfig
from orchestrator.config.settings import holds_credentials, may_change
from orchestrator.config.training import DiffusionConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Which run this is and where it lives: everything of it lies in ``root/name``."""

    name: str
    """Folder under ``root`` and name in MLflow; the same name continues the same run."""
    root: str = may_change("runs")
    """Folder of all runs and of the embedded MLflow store. On a cluster it is on storage that every node
    mounts, or an s3:// URI."""
    seed: int = 0
    """Weights, data order, training noise and samples all derive from it."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ValueError(
                f"run.name {self.name!r} must start with a letter or digit and hold only letters, digits, "
                ". _ -"
            )
        if not storage.is_local(self.root) and not self.root.startswith("s3://"):
            raise ValueError(f"run.root {self.root!r} must be a folder or an s3:// URI")
        if self.seed < 0:
            raise ValueError(f"run.seed {self.seed} must not be negative")


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where MLflow is."""

    uri: str | None = may_change(None)
    """Tracking server; null: MLFLOW_TRACKING_URI, or else a SQLite store in run.root."""
    experiment: str = may_change("dimr")
    """MLflow experiment of the run."""


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Which Ray cluster to use."""

    address: str | None = may_change(None)
    """host:port or auto; null: RAY_ADDRESS, or else an embedded Ray on this machine."""
    stall_seconds: float = may_change(300.0)
    """A step, a block of data or a range of images that takes longer than this, and than ten times the
    slowest one before, counts as a failure. The first one may take six times as long."""
    show_logs: bool = may_change(False)
    """Have what Ray, its workers and actors say in the terminal, and not in the run's logs/."""

    def __post_init__(self) -> None:
        if not self.stall_seconds > 0:
            raise ValueError(f"cluster.stall_seconds {self.stall_seconds} must be above 0")


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Everything that decides an experiment."""

    run: RunConfig
    data: DataConfig
    model: DiMRConfig
    train: TrainConfig
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        self._refuse_credentials()
        lanes, batch_size, workers = self.data.lanes, self.train.batch_size, max(1, self.train.workers)
        if batch_size % lanes:
            divisors = [n for n in range(1, batch_size + 1) if batch_size % n == 0]
            nearest = min(divisors, key=lambda n: abs(n - lanes))
            raise ValueError(
                f"data.lanes {lanes} does not divide train.batch_size {batch_size}; "
                f"the nearest that does is {nearest}"
            )
        if lanes % workers:
            divisors = [n for n in range(1, lanes + 1) if lanes % n == 0]
            below = max((n for n in divisors if n < workers), default=1)
            above = min((n for n in divisors if n > workers), default=below)
            raise ValueError(
                f"train.workers {workers} does not divide data.lanes {lanes}; "
                f"the nearest that do are {below} and {above}"
            )
        share = batch_size // workers
        if share % self.train.micro_batches:
            raise ValueError(
                f"train.micro_batches {self.train.micro_batches} does not divide a worker's share of the "
                f"batch, {share}"
            )
        if not all(0 <= branch < self.model.num_branches for branch in self.train.recompute_branches):
            raise ValueError(
                f"train.recompute_branches {self.train.recompute_branches} must be in "
                f"0..{self.model.num_branches - 1}"
            )
        has_null_class = self.model.has_null_class and self.model.class_conditioning != "none"
        if self.diffusion.class_dropout > 0 and not has_null_class:
            raise ValueError(
                "diffusion.class_dropout needs a network with a null class: set diffusion.class_dropout to "
                "0, or model.has_null_class to true and model.class_conditioning to other than none"
            )
        unknown = [c for c in self.evaluation.grid_classes if not 0 <= c < self.model.num_classes]
        if unknown:
            raise ValueError(
                f"evaluation.grid_classes {unknown} are outside of 0..{self.model.num_classes - 1}, "
                "the network's classes"
            )
        check_sampler(self.diffusion.process, self.sampling.sampler.kind)
        if self.sampling.guidance.kind != "none" and self.diffusion.class_dropout == 0:
            raise ValueError(
                "sampling.guidance needs a network that has seen the null class: set diffusion.class_dropout "
                "above 0, or sampling.guidance.kind to none"
            )

    def _refuse_credentials(self) -> None:
        """Refuse names and passwords in it: the config is written into logs, checkpoints and MLflow."""
        for section in fields(self):
            for setting in fields(getattr(self, section.name)):
                if holds_credentials(getattr(getattr(self, section.name), setting.name)):
                    raise ValueError(
                        f"{section.name}.{setting.name} holds a name or password before an @, and everything "
                        "set here is written into logs, checkpoints and MLflow. Leave them out, and give "
                        "them in the environment: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
                        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
                    )

    @property
    def world_sizes(self) -> list[int]:
        """The numbers of workers that can train, ascending.

        Each divides the lanes, and a worker's share of the batch divides into the micro-batches.
        """
        train = self.train
        least = train.workers if train.min_workers is None else train.min_workers
        return [
            workers
            for workers in range(least, train.workers + 1)
            if workers == 0
            or (self.data.lanes % workers == 0 and train.batch_size // workers % train.micro_batches == 0)
        ]

    @property
    def directory(self) -> str:
        """The place where everything of the run lies: an absolute path or a URI."""
        root = self.run.root
        local = str(Path(root).expanduser().absolute()) if storage.is_local(root) else root
        return storage.join(local, self.run.name)

"""What the subcommands of jobs/evaluate.py ask for besides the config."""

from dataclasses import dataclass

from orchestrator.config.evaluation import FEWEST_IMAGES


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """The options of jobs that sample with a checkpoint."""

    checkpoint: str = ""
    """What to evaluate: a run's folder, one of its checkpoints, an exported folder, or a released .pth
    file."""

    def __post_init__(self) -> None:
        if not self.checkpoint:
            raise ValueError(
                "Say what to evaluate: --checkpoint runs/NAME, a checkpoint, an exported folder or a "
                "released file."
            )


@dataclass(frozen=True, kw_only=True)
class SampleOptions(CheckpointOptions):
    """The options of sampling without scores."""

    out: str | None = None
    """PNG to write a grid of a few classes into, at once and in this process. Without it, evaluation.images
    samples of all classes are made on actors, into a folder of the run."""
    classes: str | None = None
    """Classes of the grid, a row each, as numbers or names: 3,5,8. By default the first ten."""
    columns: int = 10
    """Images of each class in the grid."""
    guidance: float | None = None
    """Scale of constant guidance in the grid; 1 is none. By default the run's own guidance."""
    seed: int | None = None
    """Other images of the same classes in the grid; by default the run's seed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.columns < 1:
            raise ValueError(f"--columns {self.columns} must be at least 1")
        if self.out is None and (self.classes, self.columns, self.guidance, self.seed) != (
            None,
            10,
            None,
            None,
        ):
            raise ValueError(
                "--classes, --columns, --guidance and --seed are for a grid: name its PNG with --out."
            )
        if self.out is not None and not self.out.endswith(".png"):
            raise ValueError(f"--out {self.out} must end in .png")


@dataclass(frozen=True, kw_only=True)
class BranchesOptions(CheckpointOptions):
    """The options of a picture of all branches."""

    out: str = "branches.png"
    """PNG to write."""
    classes: str | None = None
    """Classes of the picture, a block each, as numbers or names: 3,5,8. By default three of them."""
    guidance: float | None = None
    """Scale of constant guidance; 1 is none. By default the run's own guidance."""
    seed: int | None = None
    """Other images of the same classes; by default the run's seed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.out.endswith(".png"):
            raise ValueError(f"--out {self.out} must end in .png")


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions:
    """The options of making a reference."""

    out: str
    """File to write, .npz; a path or s3://."""
    images: str | None = None
    """A prepared dataset, a folder of images or an .npz with arr_0; by default data.path."""


@dataclass(frozen=True, kw_only=True)
class VAEOptions:
    """The options of scoring a VAE."""

    images: str | None = None
    """Images to encode and decode, all of them: a folder, an .npz with arr_0, or a dataset of pixels; by
    default data.path."""


@dataclass(frozen=True, kw_only=True)
class GuidanceSweepOptions(CheckpointOptions):
    """The options of a guidance sweep."""

    scales: tuple[float, ...] = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
    """Guidance scales to try; 1 is none."""
    intervals: tuple[tuple[float, float], ...] = ()
    """Intervals of diffusion steps to try, such as [[0, 1000], [200, 800]]; by default the config's."""
    quick_images: int | None = None
    """Samples of each setting in the first round; by default a tenth of evaluation.images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scales:
            raise ValueError("--scales must name at least one")
        if self.quick_images is not None and self.quick_images < FEWEST_IMAGES:
            raise ValueError(f"--quick_images {self.quick_images} must be at least {FEWEST_IMAGES}")

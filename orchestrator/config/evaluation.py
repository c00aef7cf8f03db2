"""The sections ``sampling`` and ``evaluation``: how images are sampled, and what is measured on them."""

from dataclasses import dataclass, field
from typing import Literal

from dimr_model.config import Guidance, Sampler
from orchestrator.config.settings import Precision, may_change

ExtractorKind = Literal["inception", "dinov2", "clip", "efficientnet_lite0", "dataset_classifier"]
FEWEST_IMAGES = 4
"""The fewest images of a score: precision and recall look at each one's three nearest neighbours."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How images are sampled, for previews and for scores."""

    sampler: Sampler = field(default_factory=Sampler)
    """The solver."""
    guidance: Guidance = field(default_factory=Guidance)
    """Classifier-free guidance."""
    vae: str | None = may_change(None)
    """Folder or hub name of the AutoencoderKL that decodes latents; null for pixels."""
    precision: Precision = "fp32"
    """Compute precision of the network while sampling."""
    batch_size: int = 50
    """Images per network call and per unit of work (twice that with guidance)."""
    actors: int = may_change(1)
    """Sampling processes, one GPU or one CPU each; 0 samples, extracts features and scores in the job's own
    process: quicker to start, one thing after another, and easy to debug."""
    use_gpu: bool = may_change(True)
    """Give each sampling process a GPU."""
    compile: bool = may_change(False)
    """As train.compile, in every sampling process."""
    labels: Literal["balanced", "random"] = "balanced"
    """balanced: image i shows class i mod number of classes; random: its class is drawn from run.seed, each
    alike likely."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError("sampling.batch_size must be at least 1")
        if self.actors < 0:
            raise ValueError("sampling.actors must be at least 0")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured on the samples."""

    images: int = 50_000
    """Samples to make and score; the metric's name carries their number (fid50k)."""
    extractors: tuple[ExtractorKind, ...] = ("inception",)
    """Networks in whose features images are compared, all in one pass. inception is FID's own, dinov2 gives
    FD-DINOv2, clip CMMD; the three are downloaded once. efficientnet_lite0 ships in a package.
    dataset_classifier is trained on the dataset's own classes. Sweeps make the first one's distance small."""
    extractor: ExtractorKind | None = None
    """One extractor alone, as configs of older versions say it; it becomes the list `extractors`."""
    extractor_weights: str | None = may_change(None)
    """File with Inception's weights, where they cannot be downloaded."""
    dinov2_weights: str | None = may_change(None)
    """File with DINOv2's weights, ViT-L/14, likewise."""
    clip_weights: str | None = may_change(None)
    """File with CLIP's weights, ViT-L/14 at 336 pixels, likewise."""
    dataset_classifier_weights: str | None = may_change(None)
    """File of a dataset's classifier, from a `statistics` folder; null: that of data.path, trained once."""
    extractor_actors: int = may_change(1)
    """Feature-extracting processes, one CPU or one GPU each. Each holds all extractors."""
    extractor_use_gpu: bool = may_change(False)
    """Give each feature-extracting process a GPU."""
    reference: str | None = may_change(None)
    """What samples are compared with: statistics made by `evaluate.py reference`, ADM's reference .npz, a
    folder of images, or a dataset. null: four fifths of data.path, with the remaining fifth and noise as
    floor and ceiling."""
    save: tuple[Literal["parquet", "npz"], ...] = may_change(())
    """Also keep the images: as parquet files of PNGs, and collected from them in one .npz as ADM's evaluator
    reads. Scores need neither."""
    grid_classes: tuple[int, ...] = may_change(())
    """Classes of which an uncurated grid is sampled too."""
    class_agreement: bool = False
    """Train a small classifier on the dataset, and report how many samples it puts into the class asked
    for."""

    def __post_init__(self) -> None:
        self._read_the_older_name()
        if not self.extractors:
            raise ValueError("evaluation.extractors must name at least one, such as [inception]")
        if len(set(self.extractors)) < len(self.extractors):
            raise ValueError(
                f"evaluation.extractors {', '.join(self.extractors)} names one twice; its numbers would be "
                "the same. Name each once."
            )
        if self.images < 2:
            raise ValueError(f"evaluation.images {self.images} must be at least 2")
        if self.extractor_actors < 1:
            raise ValueError("evaluation.extractor_actors must be at least 1")

    def _read_the_older_name(self) -> None:
        """Make the list of what is said by the older name, so that the code knows one."""
        if self.extractor is None:
            return
        if self.extractors not in (EvaluationConfig.extractors, (self.extractor,)):
            raise ValueError(
                f"evaluation.extractor {self.extractor} and evaluation.extractors "
                f"[{', '.join(self.extractors)}] are two names of one setting. Give the list alone, such as "
                f"--evaluation.extractors '[{self.extractor}]'."
            )
        object.__setattr__(self, "extractors", (self.extractor,))
        object.__setattr__(self, "extractor", None)

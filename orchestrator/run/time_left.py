"""How long the rest of an experiment will take, told from what was measured so far."""

from orchestrator.config.evaluation import ExtractorKind
from orchestrator.config.schema import ExperimentConfig

PARTS = ("train", "reference", "sample")
FORWARD_AND_BACKWARD = 3
"""A training step computes about three times what a forward pass does."""
SAMPLING_IS_FASTER = 2.0
"""How many times as fast as in training a network call is in sampling, whose batches are larger and wait for
nobody. Of the quickstart, measured on two CPU cores."""
EXTRACTED_PER_SECOND: dict[tuple[ExtractorKind, bool], float] = {
    ("efficientnet_lite0", False): 180.0,
    ("efficientnet_lite0", True): 2000.0,
    ("inception", False): 10.0,
    ("inception", True): 400.0,
    ("dinov2", False): 0.5,
    ("dinov2", True): 200.0,
    ("clip", False): 0.2,
    ("clip", True): 80.0,
    ("dataset_classifier", False): 2000.0,
    ("dataset_classifier", True): 2000.0,
}
"""(Extractor, on a GPU) -> images/s of one process: rough, until the first of them are measured."""
START_AGAIN = 0.5
"""Processes of later parts start in about half the time that the first took, beside which Ray started."""


class TimeLeft:
    """Seconds until an experiment is over.

    Parts that have not begun are estimated from those that have.

    Args:
        real_images: images of the dataset, whose statistics the samples are compared with.
    """

    def __init__(self, config: ExperimentConfig, real_images: int) -> None:
        self._config = config
        # Noise is compared with too.
        noise = min(config.evaluation.images, real_images // 5)
        real = real_images + noise if config.evaluation.reference is None else 0
        self._images = {"train": config.train.images, "reference": real, "sample": config.evaluation.images}
        self._rates: dict[str, float] = {}
        self._start = 0.0

    def begin(self, part: str, images: int) -> None:
        """Note that so many images of a part begin now; what was before it is over."""
        if part in PARTS:
            self._images[part] = 0 if part == "train" else max(0, self._images[part] - images)
            self._images |= dict.fromkeys(PARTS[: PARTS.index(part)], 0)

    def took_to_start(self, seconds: float) -> None:
        """Note how long processes took until they had done something."""
        self._start = self._start or START_AGAIN * seconds

    def after(self, part: str, rate: float) -> float:
        """Seconds of all that comes after these images of ``part``, which are done at ``rate`` images/s."""
        self._rates[part] = rate
        left = [name for name in PARTS if self._images[name]]
        starts = self._start * len([name for name in left if name != part])
        return starts + sum(self._images[name] / self._rate(name) for name in left)

    def _rate(self, part: str) -> float:
        if part in self._rates:
            return self._rates[part]
        evaluation, sampling, train = self._config.evaluation, self._config.sampling, self._config.train
        if part == "reference":
            on_gpu = evaluation.extractor_use_gpu
            seconds = sum(1 / EXTRACTED_PER_SECOND[kind, on_gpu] for kind in evaluation.extractors)
            return (evaluation.extractor_actors if sampling.actors else 1) / seconds
        if "train" not in self._rates:
            return float("inf")  # Nothing is known of the network's speed.
        calls = sampling.sampler.steps * (1 if sampling.guidance.kind == "none" else 2)
        calls_per_second = self._rates["train"] * FORWARD_AND_BACKWARD / max(1, train.workers)
        return SAMPLING_IS_FASTER * calls_per_second * max(1, sampling.actors) / calls

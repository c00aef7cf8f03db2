"""An extractor with the real images that it compares samples with, and what it measures."""

from dataclasses import asdict, dataclass

from orchestrator.config.schema import ExperimentConfig
from orchestrator.scoring.baselines import Baselines
from orchestrator.scoring.extractors import ExtractorDescription, dimensions_of
from orchestrator.scoring.frechet import FrechetDistance
from orchestrator.scoring.metrics import Collected, all_metrics
from orchestrator.scoring.model_under_test import ModelUnderTest
from orchestrator.scoring.paper_numbers import paper_value
from orchestrator.scoring.protocol import Measurement, count_name, sample_protocol, shows_all_classes
from orchestrator.scoring.reference import Reference


@dataclass(frozen=True)
class Judge:
    """An extractor, and what samples are compared with in its features."""

    described: ExtractorDescription
    against: Baselines | Reference

    @property
    def reference(self) -> Reference:
        """The real images."""
        return self.against.real if isinstance(self.against, Baselines) else self.against

    def measure(
        self,
        config: ExperimentConfig,
        tested: ModelUnderTest,
        scaling_factor: float | None,
        found: Collected,
    ) -> list[Measurement]:
        """What the extractor says of samples, whose features were ``found``."""
        reference, kind = self.reference, self.described.name
        against = {
            "extractor": asdict(self.described),
            "reference": {**reference.about, "sha256": reference.sha256},
        }
        sampled = sample_protocol(config, tested, scaling_factor, found.count)
        protocol = {**sampled, "samples": found.count, **against}
        guided = config.sampling.guidance.kind != "none"
        measured = [
            Measurement(
                metric=metric.name,
                count=found.count,
                extractor=kind,
                images=tested.weights["kind"],
                value=metric.value,
                error=metric.error,
                meaning=metric.meaning,
                protocol=protocol | ({"settings": metric.settings} if metric.settings else {}),
                paper=paper_value(config.model, metric.name, guided, found.count, kind),
            )
            for metric in all_metrics(found, reference.target, kind)
        ]
        if isinstance(self.against, Baselines):
            others = {
                "real": (self.against.held_out, "the Fréchet distance of real images held out: the floor"),
                "noise": (self.against.noise, "the same of Gaussian noise: the ceiling"),
            }
            distance = FrechetDistance(reference.target.gaussian)
            for images, (other, meaning) in others.items():
                measured.append(
                    Measurement(
                        metric="fid" if kind == "inception" else "fd",
                        count=other.about["images"],
                        extractor=kind,
                        images=images,
                        value=distance(other.target.gaussian),
                        meaning=meaning,
                        protocol={"images": {**other.about, "sha256": other.sha256}, **against},
                    )
                )
        return measured


def warnings_of(config: ExperimentConfig) -> list[str]:
    """What a reader of the scores must know; it is known before anything is sampled."""
    found, count = [], config.evaluation.images
    shows_all = shows_all_classes(config, count)
    for kind in config.evaluation.extractors:
        dimensions = dimensions_of(kind)
        if count > dimensions:
            continue
        found.append(
            f"{count} samples are fewer than the {dimensions + 1} that a covariance of {dimensions} "
            f"dimensions needs, and {kind} has so many: it is singular, and the Fréchet distance is far "
            "above what more samples would give. Compare it only with distances of as many samples (the name "
            f"says {count_name(count)})" + ("; KID is unbiased at any count." if shows_all else ".")
        )
    if not shows_all:
        classes = config.model.num_classes
        found.append(
            f"{count} samples with balanced labels show only the first {count} of {classes} classes. The "
            "real images show all of them, so every distance, KID too, tells of the classes rather than of "
            f"the samples. Take at least {classes}, or set --sampling.labels random."
        )
    return found

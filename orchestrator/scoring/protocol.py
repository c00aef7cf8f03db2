"""A number and everything one must know to compare it: no metric leaves without its protocol."""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from orchestrator.config.evaluation import ExtractorKind
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.compatibility import describe_vae
from orchestrator.sampling.decoder import ROUNDING
from orchestrator.scoring.model_under_test import ModelUnderTest

VERSION = 1
"""Part of every protocol, and so of the key of everything that is kept for another time.

It is raised where the same settings give other images, features or statistics than before.
"""
KINDS_OF_WEIGHTS = ("ema", "exported", "released")
"""How the names of samples' scores end."""
LABELS = {
    "balanced": "balanced: image i shows class i mod number of classes",
    "random": "random: the class of image i is drawn from (seed, i), each alike likely",
}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A number, what it means, and its protocol."""

    metric: str
    """Name of the metric, such as fid."""
    count: int | None
    """Number of images that it was made of; None where its name is not to say it."""
    extractor: str | None
    """Extractor whose features it compares; None for metrics without one."""
    images: str
    """What was measured: for samples the kind of weights (``ema``, ``exported``, ``released``), else ``real``
    or ``noise``; empty where the metric's name says it."""
    value: float
    meaning: str
    protocol: dict[str, Any]
    paper: str = ""
    """What the paper reports for this model under this protocol, if it does."""
    error: float | None = None
    """Its standard error, where it is known; the protocol's settings say how."""

    def plain(self) -> dict[str, Any]:
        """As in metrics.json: its value, meaning and protocol.

        Where it has them, also its standard ``error`` and the paper's number.
        """
        kept = ("value", "error", "meaning", "protocol", "paper")
        return {name: getattr(self, name) for name in kept if getattr(self, name) not in (None, "")}

    @property
    def name(self) -> str:
        """The whole name, such as ``fid50k_inception_ema`` or ``class_agreement_1k_ema``."""
        return score_name(self.metric, self.count, self.extractor, self.images)

    @property
    def name_without_count(self) -> str:
        """The name for tables that have the number of samples in a column of its own."""
        return dataclasses.replace(self, count=None).name

    @property
    def is_of_samples(self) -> bool:
        """Whether it was measured on samples, rather than on real images or noise."""
        return "samples" in self.protocol


def score_name(metric: str, count: int | None, extractor: str | None, images: str) -> str:
    """The name of a :class:`Measurement` by the fields that make it."""
    shown = "" if count is None else count_name(count)
    stem = f"{metric}{shown}" if extractor else "_".join(filter(None, (metric, shown)))
    return "_".join(part for part in (stem, extractor, images) if part)


def distance_name(extractor: ExtractorKind) -> str:
    """The metric that is an extractor's own distance: only Inception's Fréchet distance may be called FID."""
    return {"inception": "fid", "clip": "cmmd"}.get(extractor, "fd")


def is_distance(name: str) -> bool:
    """Whether a name, with a count or without, is that of an extractor's own distance of samples."""
    return re.fullmatch(rf"(fid|fd|cmmd)(\d+k?)?_.+_({'|'.join(KINDS_OF_WEIGHTS)})", name) is not None and (
        "infinity" not in name
    )


def count_name(count: int) -> str:
    """50,000 -> 50k; n images are never called another n (1,234 stays 1234)."""
    return f"{count // 1000}k" if count % 1000 == 0 and count else str(count)


def shows_all_classes(config: ExperimentConfig, count: int) -> bool:
    """Whether so many samples have every class of the network, or as many as chance gives them."""
    has_no_classes = config.model.class_conditioning == "none"
    return has_no_classes or config.sampling.labels != "balanced" or count >= config.model.num_classes


def sample_protocol(
    config: ExperimentConfig,
    tested: ModelUnderTest,
    scaling_factor: float | None,
    count: int | None = None,
) -> dict[str, Any]:
    """How the images were sampled: everything that changes a pixel of them.

    Args:
        scaling_factor: that of the latents which the network was trained on; None: the VAE's own.
        count: the labels' description tells where so many images miss classes.
    """
    sampling = config.sampling
    labels = LABELS[sampling.labels]
    if count is not None and not shows_all_classes(config, count):
        labels += f"; only the first {count} of {config.model.num_classes} classes"
    guidance = dataclasses.asdict(sampling.guidance)
    if sampling.guidance.kind != "power_cosine":
        del guidance["power"]
    if sampling.guidance.kind == "none":
        guidance = {"kind": "none"}
    else:
        guidance["convention"] = "scale multiplies conditional minus unconditional; 1 is none"
    return {
        "version": VERSION,
        "weights": tested.weights,
        "images_seen": tested.images_seen,
        "sampler": dataclasses.asdict(sampling.sampler),
        "guidance": guidance,
        **config.diffusion.facts,
        "labels": labels,
        "seed": config.run.seed,
        "vae": describe_vae(config),
        "scaling_factor": scaling_factor,
        "precision": sampling.precision,
        "tf32": False,  # refuse_tf32() in orchestrator/precision.py
        # It changes the last bits.
        "batch_size": sampling.batch_size,
        "rounding": ROUNDING,
    }


def samples_name(protocol: dict[str, Any], **kept: Any) -> str:
    """The folder name of a set of samples: words for people, and a hash of all that decides the bytes.

    Args:
        protocol: of :func:`sample_protocol`, for no count: the images are the same however many are made.
        kept: what else decides what is kept of each image, such as the extractor's description.
    """
    sampler, guidance, seen = protocol["sampler"], protocol["guidance"], protocol["images_seen"]
    digest = hashlib.sha256(json.dumps([protocol, kept], sort_keys=True).encode()).hexdigest()[:8]
    strength = "unguided" if guidance["kind"] == "none" else f"{guidance['kind']}{guidance['scale']:g}"
    first = protocol["weights"]["kind"] if seen is None else seen
    return f"{first}-{sampler['kind']}{sampler['steps']}-{strength}-{digest}"


def summary_of(metrics: dict[str, Any]) -> str:
    """How scores were measured, in a line or two for the terminal.

    Args:
        metrics: as in ``metrics.json``.
    """
    protocols = [one["protocol"] for one in metrics.values()]
    protocol = protocols[0]
    guidance, weights, reference = protocol["guidance"], protocol["weights"], protocol["reference"]
    extractors = {one["extractor"]["name"]: one["extractor"] for one in protocols if "extractor" in one}
    features = " and ".join(f"{name} {one['weights_sha256'][:8]}" for name, one in extractors.items())
    strength = "without guidance"
    if guidance["kind"] != "none":
        first, last = guidance["interval"]
        strength = f"guidance {guidance['kind']} {guidance['scale']:g} on steps {first:g} to {last:g}"
    seen = "" if protocol["images_seen"] is None else f" after {protocol['images_seen']} images"
    return (
        f"{protocol['samples']} samples, {weights['kind']} weights {weights['sha256'][:8]}{seen}, sampler "
        f"{protocol['sampler']['kind']} with {protocol['sampler']['steps']} steps, {strength}, labels "
        f"{protocol['labels'].split(':')[0]}, seed {protocol['seed']}, {protocol['precision']}; features of "
        f"{features}; {reference.get('images', 'statistics of')} real images of {reference['source']}, "
        f"{reference['sha256'][:8]}"
    )

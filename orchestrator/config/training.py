"""The sections ``diffusion`` and ``train``: what is learned, and how."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dimr_model.config import LossWeight, Prediction, ProcessKind, Schedule, TimeKind
from dimr_model.objective import check_loss_weight, check_prediction, check_time_shift
from orchestrator.config.evaluation import FEWEST_IMAGES
from orchestrator.config.settings import Precision, may_change

if TYPE_CHECKING:
    from dimr_model.diffusion import Process


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
        if self.initial_std is not None and self.initial_std <= 0:
            raise ValueError(f"train.initial_std {self.initial_std} must be positive, or null")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"train.betas {self.betas} must be in [0, 1)")
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

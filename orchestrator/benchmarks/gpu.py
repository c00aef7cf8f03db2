"""What one GPU does with the paper's networks: training, sampling, decoding, scoring."""

import gc
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from dimr_model import DiMR
from dimr_model.complexity import count_macs
from dimr_model.diffusion import noise_level
from dimr_model.ema import EMA
from orchestrator.benchmarks.layouts import measure_layouts
from orchestrator.benchmarks.score import untrained_inception
from orchestrator.config.command_line import parse
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.vae import decode_latents
from orchestrator.errors import UserError
from orchestrator.planning.machine import Machine
from orchestrator.planning.memory import worker_memory
from orchestrator.planning.plan import network_evaluations
from orchestrator.planning.trace import trace_step
from orchestrator.precision import compute_precision, refuse_tf32
from orchestrator.training.hardware import matmul_peak, peak_flops, seconds_of
from orchestrator.training.interval import FORWARD_AND_BACKWARD
from orchestrator.training.optimizer import build_optimizer
from orchestrator.training.parallelize import make_mesh, parallelize
from orchestrator.training.process_group import of_this_process
from orchestrator.training.state import TrainState
from orchestrator.training.step import Draws, train_step
from orchestrator.training.timing import Stopwatch

PRESETS = ("imagenet64_m3r", "imagenet64_l3r", "imagenet256_xl2r", "imagenet512_xl3r", "imagenet256_g2r")
SAMPLED_AT_ONCE = 64
IMAGES = 256
"""Images for decoding and scoring."""


@dataclass(frozen=True)
class Trained:
    """What was measured of training a preset with one GPU."""

    preset: str
    mode: str
    batch: int
    """Images of a micro-batch."""
    seconds: float
    """Median seconds of a step of one micro-batch, with its update."""
    parts: dict[str, float]
    """Shares of the step's time."""
    mfu: float
    bytes: int
    """Most bytes of tensors that torch held in a step."""
    planned: int
    """What the planner says of them."""
    first_seconds: float
    """Seconds of the first step, which compiles."""


def measure_gpu(presets: str, repeats: int, console: Console) -> list[Trained]:
    """Measure everything on this process's GPU, and print a table after each part.

    Raises:
        UserError: there is no GPU, or a preset is unknown.
    """
    chosen = presets.split(",") if presets else list(PRESETS)
    if unknown := set(chosen) - set(PRESETS):
        raise UserError(f"There is no preset {', '.join(sorted(unknown))}; use {', '.join(PRESETS)}.")
    if not torch.cuda.is_available():
        raise UserError("torch sees no GPU here (torch.cuda.is_available() is False).")
    refuse_tf32()
    device = torch.device("cuda")
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    peak = matmul_peak(device, "bf16")
    console.print(
        f"{torch.cuda.get_device_name()}, {versions}; a bf16 matrix product: {peak / 1e12:.0f} TFLOP/s"
    )
    measure_layouts(repeats, console)
    _measure_images(device, console)
    trained = [row for preset in chosen for row in _measure_preset(preset, repeats, device, console)]
    fastest = {row.preset: row for row in sorted(trained, key=lambda row: row.batch / row.seconds)}
    for preset, row in fastest.items():
        console.print(
            f"python jobs/plan.py --config {preset} "
            f"--images_per_second_per_worker {row.batch / row.seconds:.4g}  # {row.mode}",
            soft_wrap=True,
        )
    return trained


def _measure_preset(preset: str, repeats: int, device: torch.device, console: Console) -> Iterator[Trained]:
    """Training and sampling with a preset's network, eager and compiled."""
    config = _on_one_gpu(preset)
    table = Table(
        "", "batch", "images/s", "MFU", "ms a step", "forward", "backward", "optimizer", "EMA", "GB",
        "planned GB", "first step, s", title=f"{preset}, training in bf16",
    )  # fmt: skip
    trained = []
    for is_compiled in (False, True):
        case = replace(config, train=replace(config.train, compile=is_compiled))
        row = measure_training(preset, case, repeats, device)
        trained.append(row)
        cells = [f"{row.parts.get(part, 0):.0%}" for part in ("forward", "backward", "optimizer", "ema")]
        table.add_row(
            row.mode, str(row.batch), f"{row.batch / row.seconds:.1f}", f"{row.mfu:.1%}",
            f"{1e3 * row.seconds:.1f}", *cells, f"{row.bytes / 1e9:.1f}", f"{row.planned / 1e9:.1f}",
            f"{row.first_seconds:.0f}",
        )  # fmt: skip
    console.print(table)
    _measure_sampling(preset, config, repeats, device, console)
    yield from trained


def _on_one_gpu(preset: str) -> ExperimentConfig:
    """A preset whose step is one of its micro-batches on one GPU, or the largest part of it that fits."""
    config = parse("", preset, [])
    here = Machine("here", {}, torch.cuda.get_device_properties(0).total_memory, None)
    batch = config.train.batch_size // config.train.workers // config.train.micro_batches
    while True:
        train = replace(config.train, batch_size=batch, workers=1, micro_batches=1, warmup_images=0)
        scaled = replace(config, train=train, data=replace(config.data, lanes=batch))
        planned = worker_memory(scaled, trace_step(config), 1).total
        if batch == 1 or here.fits(planned, compiled=True):
            return scaled
        batch //= 2


def measure_training(preset: str, config: ExperimentConfig, repeats: int, device: torch.device) -> Trained:
    """Train for a few steps as a worker does, on numbers that are drawn here."""
    network, batch = config.model, config.train.batch_size
    torch.manual_seed(0)
    gc.collect()  # A compiled or sharded network is part of cycles.
    torch.cuda.empty_cache()
    with of_this_process(device):
        with device:
            model = DiMR(network).train()
        model = parallelize(model, make_mesh(config.train, device.type, 1, 1), config.train)
        state = TrainState(model, build_optimizer(model, config.train), EMA(model), device)
        shape = (batch, network.channels, network.input_size, network.input_size)
        steps, labels = torch.randint(1, 1001, (batch,)), torch.randint(0, network.num_classes, (batch,))
        draws = Draws(torch.randn(shape), torch.randn(shape), steps, labels)
        schedule, stopwatch = config.diffusion.make_process(), Stopwatch(device)

        def step() -> None:
            train_step(config, state, draws, schedule, stopwatch)

        first_seconds = seconds_of(step, device)
        step()
        stopwatch.seconds()
        torch.cuda.reset_peak_memory_stats()
        taken = [seconds_of(step, device) for _ in range(repeats)]
        parts = {name: spent / sum(taken) for name, spent in stopwatch.seconds().items()}
    seconds = statistics.median(taken)
    flops = 2 * FORWARD_AND_BACKWARD * count_macs(network) * batch
    return Trained(
        preset,
        "compiled" if config.train.compile else "eager",
        batch,
        seconds,
        parts,
        flops / seconds / peak_flops(device, "bf16"),
        torch.cuda.max_memory_allocated(),
        worker_memory(config, trace_step(config), 1).total,
        first_seconds,
    )


@torch.no_grad()
def _measure_sampling(
    preset: str, config: ExperimentConfig, repeats: int, device: torch.device, console: Console
) -> None:
    """One evaluation of the network for a batch of samples: eager, compiled, and as a CUDA graph."""
    copies = 1 if config.sampling.guidance.kind == "none" else 2
    evaluations = network_evaluations(config) / copies
    table = Table(
        "", "ms an evaluation", "images/s", "of bf16 peak",
        title=f"{preset}, sampling {SAMPLED_AT_ONCE} images at once in bf16, {config.sampling.sampler.steps} "
        f"steps, guidance {config.sampling.guidance.kind}",
    )  # fmt: skip
    for mode, run in _ways_to_sample(config, SAMPLED_AT_ONCE * copies, device):
        run()
        seconds = statistics.median(seconds_of(run, device) for _ in range(repeats))
        used = 2 * count_macs(config.model) * SAMPLED_AT_ONCE * copies / seconds / peak_flops(device, "bf16")
        table.add_row(
            mode, f"{1e3 * seconds:.1f}", f"{SAMPLED_AT_ONCE / (evaluations * seconds):.2f}", f"{used:.1%}"
        )
    console.print(table)


def _ways_to_sample(
    config: ExperimentConfig, rows: int, device: torch.device
) -> Iterator[tuple[str, Callable[[], Any]]]:
    network = config.model
    with device:
        model = DiMR(network).eval()
        noisy = torch.randn(rows, network.channels, network.input_size, network.input_size)
        level = noise_level(torch.full((rows,), 500.0))
        labels = torch.randint(0, network.num_classes, (rows,))

    def evaluate() -> Any:
        with compute_precision("bf16", device):
            return model(noisy, level, labels)[-1]

    yield "eager", evaluate
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        evaluate()
    yield "eager, CUDA graph", graph.replay
    del graph
    model.compile_units()
    yield "compiled", evaluate


@torch.no_grad()
def _measure_images(device: torch.device, console: Console) -> None:
    """Decoding of latents and extraction of features, of images of 256x256."""
    from diffusers import AutoencoderKL

    from orchestrator.scoring.efficientnet import EfficientNetLite0
    from orchestrator.scoring.extractors import weights_file
    from orchestrator.scoring.inception import Inception

    with device:
        # The shape of Stable Diffusion's; weights do not change its speed.
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
        ).eval()  # fmt: skip
    latents = torch.randn(IMAGES // 4, 4, 32, 32, device=device)
    pictures = torch.randint(0, 256, (IMAGES, 3, 256, 256), dtype=torch.uint8)
    table = Table("", "images/s", title="Images of 256x256, float32")
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(weights_file(parse("", "quickstart", []).evaluation, "efficientnet_lite0"))
        ways: dict[str, tuple[int, Callable[[], Any]]] = {
            "Stable Diffusion's decoder": (len(latents), lambda: decode_latents(vae, latents)),
        }
        for name, network in (
            (
                "Inception, from and to the CPU",
                Inception(untrained_inception(Path(folder) / "i.pth"), device),
            ),
            ("EfficientNet-Lite0, from and to the CPU", EfficientNetLite0(weights, device)),
        ):
            ways[name] = (IMAGES, lambda network=network: network(pictures))  # type: ignore[misc]
        for name, (count, run) in ways.items():
            run()
            table.add_row(name, f"{count / statistics.median(seconds_of(run, device) for _ in range(3)):.0f}")
    console.print(table)

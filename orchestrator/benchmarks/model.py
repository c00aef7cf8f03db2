"""Speed and memory of the network: this implementation against the way in which the released one computes."""

import copy
import statistics
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from dimr_model import VARIANTS, DiMR, DiMRConfig
from dimr_model.complexity import count_macs
from dimr_model.diffusion import branch_losses, multi_scale_loss, noise_level
from orchestrator.config.settings import Precision
from orchestrator.errors import UserError
from orchestrator.precision import compute_precision
from orchestrator.training.hardware import matmul_peak, seconds_of

SMALL = DiMRConfig(input_size=32, channels=4, num_classes=1000, depths=(8, 4), widths=(256, 128), num_heads=8)
"""8.9 million parameters: large enough for matrix products to dominate, small enough for a CPU."""


@dataclass(frozen=True)
class Case:
    """One way to compute the network."""

    name: str
    precision: Precision = "fp32"
    as_released: bool = False
    recompute: bool = False
    compile: bool = False


BASELINE = Case("as released: recomputed, fp32", as_released=True, recompute=True)
CASES = (
    BASELINE,
    Case("as released: kept, fp32", as_released=True),
    Case("eager, fp32"),
    Case("eager, fp32, recomputed", recompute=True),
    Case("eager, bf16", precision="bf16"),
    Case("eager, bf16, recomputed", precision="bf16", recompute=True),
    Case("compiled, fp32", compile=True),
    Case("compiled, bf16", precision="bf16", compile=True),
    Case("compiled, bf16, recomputed", precision="bf16", compile=True, recompute=True),
)


@dataclass
class Result:
    """What was measured of a case; times are medians."""

    case: Case
    step_seconds: float
    forward_seconds: float
    step_speed: float
    """How many times faster the case's step is than the baseline's, measured in turns with it."""
    forward_speed: float
    activation_bytes: int
    """Bytes that the forward pass keeps for the backward pass."""
    peak_bytes: int
    """Peak GPU memory of a step; 0 on a CPU."""


class _Subject:
    """A network that computes as a case says, with everything that a step needs."""

    def __init__(self, case: Case, model: DiMR, batch_size: int, device: torch.device) -> None:
        self.case, self.device = case, device
        self.model = (
            copy.deepcopy(model).to(device).compute_as_released(case.as_released).recompute(case.recompute)
        )
        if case.compile:
            self.model.compile_units()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=device.type == "cuda")
        config = model.architecture
        shape = (batch_size, config.channels, config.input_size, config.input_size)
        generator = torch.Generator().manual_seed(0)
        self.noisy = torch.randn(shape, generator=generator).to(device)
        self.level = noise_level(torch.randint(1, 1001, (batch_size,), generator=generator).float()).to(
            device
        )
        self.labels = torch.randint(0, config.num_classes, (batch_size,), generator=generator).to(device)
        self.losses: list[float] = []

    def loss(self) -> Tensor:
        with compute_precision(self.case.precision, self.device):
            predictions = self.model(self.noisy, self.level, self.labels)
        return multi_scale_loss(branch_losses(predictions, self.noisy)).mean()

    def step(self) -> None:
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.losses.append(float(loss.detach()))

    @torch.no_grad()
    def forward(self) -> None:
        float(self.loss())

    def activation_bytes(self) -> int:
        """Bytes that are kept for the backward pass; each storage counts once, parameters do not."""
        own = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        kept: dict[int, Tensor] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            self.loss()
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def measure(case: Case, model: DiMR, batch_size: int, device: torch.device) -> tuple[Result, _Subject]:
    """Warm up and measure memory, without times yet."""
    tested = _Subject(case, model, batch_size, device)
    for _ in range(2):
        tested.step()
    tested.forward()
    peak = 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        tested.step()
        peak = torch.cuda.max_memory_allocated()
    return Result(case, 0.0, 0.0, 1.0, 1.0, tested.activation_bytes(), peak), tested


def network_of(variant: str) -> DiMRConfig:
    """The network that is measured: "small" or one of the paper's.

    Raises:
        UserError: the variant is unknown.
    """
    if variant != "small" and variant not in VARIANTS:
        raise UserError(f"There is no variant {variant!r}; use small, {', '.join(VARIANTS)}.")
    return SMALL if variant == "small" else VARIANTS[variant]


def compare(variant: str, batch_size: int, repeats: int, console: Console) -> list[Result]:
    """Measure all cases on ``variant`` ("small" or one of the paper's) and print a table of ratios.

    Raises:
        UserError: the variant is unknown.
    """
    config = network_of(variant)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = DiMR(config)
    results = [_beside_baseline(case, model, batch_size, repeats, device) for case in CASES]
    _print(results, config, variant, batch_size, device, console)
    return results


def _beside_baseline(case: Case, model: DiMR, batch_size: int, repeats: int, device: torch.device) -> Result:
    """Measure a case in turns with the baseline.

    Nothing else is in memory: it would slow some cases more than others.
    """
    _, reference = measure(BASELINE, model, batch_size, device)
    result, tested = measure(case, model, batch_size, device)
    taken: dict[str, list[float]] = {
        name: [] for name in ("reference step", "step", "reference forward", "forward")
    }
    for _ in range(repeats):
        taken["reference step"].append(seconds_of(reference.step, device))
        taken["step"].append(seconds_of(tested.step, device))
        taken["reference forward"].append(seconds_of(reference.forward, device))
        taken["forward"].append(seconds_of(tested.forward, device))
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    result.step_seconds, result.forward_seconds = medians["step"], medians["forward"]
    result.step_speed = medians["reference step"] / medians["step"]
    result.forward_speed = medians["reference forward"] / medians["forward"]
    return result


def _print(
    results: list[Result],
    config: DiMRConfig,
    variant: str,
    batch_size: int,
    device: torch.device,
    console: Console,
) -> None:
    kept = results[1].activation_bytes
    macs = count_macs(config) * batch_size
    peaks = {precision: matmul_peak(device, precision) for precision in ("fp32", "bf16")}
    name = (
        torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    )
    columns = ["case", "step ms", "speed", "forward ms", "speed", "images/s", "kept MB", "of kept", "MFU"]
    table = Table(
        *columns,
        *(["peak GB"] if device.type == "cuda" else []),
        title=f"{variant}, batch {batch_size}, {name}, torch {torch.__version__}",
        caption="speed: against the first row, measured in turns with it; kept: for the backward pass, "
        "against the second row; MFU: 3 forward passes of multiply-adds per step against a measured "
        "matrix product",
    )
    for result in results:
        cells = [
            result.case.name,
            f"{1e3 * result.step_seconds:.1f}",
            f"{result.step_speed:.2f}x",
            f"{1e3 * result.forward_seconds:.1f}",
            f"{result.forward_speed:.2f}x",
            f"{batch_size / result.step_seconds:.1f}",
            f"{result.activation_bytes / 1e6:.0f}",
            f"{result.activation_bytes / kept:.2f}x",
            # Model FLOPs utilization (Chowdhery et al., 2022): two operations in each multiply-add, and a
            # backward pass computes about twice as much as a forward pass.
            f"{6 * macs / result.step_seconds / peaks[result.case.precision]:.0%}",
        ]
        table.add_row(*cells, *([f"{result.peak_bytes / 1e9:.1f}"] if device.type == "cuda" else []))
    console.print(table)

"""Speed of sampling: the pipeline against the bare network, and what each kind of guidance costs."""

import dataclasses
import statistics
import tempfile
import time
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table

from dimr_model import DiMR
from dimr_model.config import Guidance, Sampler
from dimr_model.diffusion import NoiseSchedule, noise_level
from dimr_model.sampling import evaluations_per_image
from orchestrator import cluster
from orchestrator.benchmarks.model import network_of
from orchestrator.benchmarks.rates import images_per_second
from orchestrator.config.data import DataConfig
from orchestrator.config.evaluation import EvaluationConfig, SamplingConfig
from orchestrator.config.schema import ExperimentConfig, RunConfig
from orchestrator.config.training import TrainConfig
from orchestrator.precision import compute_precision
from orchestrator.sampling.parts import ranges_of
from orchestrator.scoring.pipeline import Samples, Work, run_on_actors

CASES = {
    "none": Guidance(kind="none"),
    "constant": Guidance(scale=2.0),
    "constant, steps 200 to 700": Guidance(scale=2.0, interval=(200, 700)),
}


@dataclass(frozen=True)
class Result:
    """Medians of one kind of guidance."""

    name: str
    evaluations: int
    """Network evaluations per image."""
    bare: float
    """Images/s of the network alone, with as many evaluations, in batches of the same size."""
    pipeline: float
    """Images/s of a sampling actor that writes its parts, from its first range to its last."""


def measure_sampling(
    variant: str, batch_size: int, steps: int, images: int, repeats: int, use_gpu: bool, console: Console
) -> list[Result]:
    """Measure every kind of guidance and print a table.

    Raises:
        UserError: the variant is unknown.
    """
    torch.manual_seed(0)
    model = DiMR(network_of(variant)).eval()
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        config = _config(folder, model, batch_size, steps, images, use_gpu)
        with cluster.connect(config):
            for name, guidance in CASES.items():
                sampling = dataclasses.replace(config.sampling, guidance=guidance)
                case = dataclasses.replace(config, sampling=sampling)
                rates: dict[str, list[float]] = {"bare": [], "pipeline": []}
                for repeat in range(repeats):
                    rates["bare"].append(_bare(case, model, images))
                    rates["pipeline"].append(_pipeline(case, model, f"{folder}/{len(results)}-{repeat}"))
                evaluations = evaluations_per_image(
                    NoiseSchedule("scaled_linear"), sampling.sampler, guidance
                )
                medians = {kind: statistics.median(values) for kind, values in rates.items()}
                results.append(Result(name, evaluations, **medians))
    _print(results, variant, batch_size, steps, use_gpu, console)
    return results


def _config(
    folder: str, model: DiMR, batch_size: int, steps: int, images: int, use_gpu: bool
) -> ExperimentConfig:
    return ExperimentConfig(
        run=RunConfig(name="benchmark", root=folder),
        data=DataConfig(path=folder),
        model=model.architecture,
        train=TrainConfig(images=1024),
        sampling=SamplingConfig(
            sampler=Sampler(steps=steps),
            batch_size=batch_size,
            use_gpu=use_gpu,
            precision="bf16" if use_gpu else "fp32",
        ),
        evaluation=EvaluationConfig(images=images),
    )


@torch.no_grad()
def _bare(config: ExperimentConfig, model: DiMR, images: int) -> float:
    """Images/s of nothing but forward passes, on one thread as in an actor."""
    sampling, architecture = config.sampling, config.model
    device = torch.device("cuda" if sampling.use_gpu else "cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = model.to(device)
    guidance, schedule = sampling.guidance, NoiseSchedule("scaled_linear")
    both = evaluations_per_image(schedule, sampling.sampler, guidance) - sampling.sampler.steps
    inputs = {}
    for copies in (1, 2):
        count = copies * sampling.batch_size
        shape = (count, architecture.channels, architecture.input_size, architecture.input_size)
        level = noise_level(torch.full((count,), 500.0))
        labels = torch.zeros(count, dtype=torch.int64)
        inputs[copies] = [tensor.to(device) for tensor in (torch.randn(shape), level, labels)]
    plan = [2] * both + [1] * (sampling.sampler.steps - both)
    with compute_precision(sampling.precision, device):
        model(*inputs[2])
        started = time.perf_counter()
        for _ in range(images // sampling.batch_size):
            for copies in plan:
                model(*inputs[copies])
        if device.type == "cuda":
            torch.cuda.synchronize()
    taken = time.perf_counter() - started
    model.to("cpu")
    torch.set_num_threads(threads)
    return images / taken


def _pipeline(config: ExperimentConfig, model: DiMR, folder: str) -> float:
    """Images/s from the end of the first range on.

    Starting actors is left out: it is paid once, however many images follow.
    """
    size = config.sampling.batch_size
    ranges = ranges_of(config.evaluation.images + size, size)
    work = Work(config, Samples(model, None), tuple(ranges), folder)
    for _ in run_on_actors(work, ranges):
        pass
    return images_per_second(work, skipped=1)


def _print(
    results: list[Result], variant: str, batch_size: int, steps: int, use_gpu: bool, console: Console
) -> None:
    place = torch.cuda.get_device_name() if use_gpu else "one CPU core"
    table = Table(
        "guidance",
        "evaluations per image",
        "network alone, images/s",
        "sampling actor, images/s",
        "share",
        "speed",
        title=f"{variant}, batch {batch_size}, {steps} steps, {place}, torch {torch.__version__}",
        caption="share: of what the network alone would sample; "
        "speed: against constant guidance at every step",
    )
    constant = next(result for result in results if result.name == "constant")
    for result in results:
        table.add_row(
            result.name,
            str(result.evaluations),
            f"{result.bare:.2f}",
            f"{result.pipeline:.2f}",
            f"{result.pipeline / result.bare:.0%}",
            f"{result.pipeline / constant.pipeline:.2f}x",
        )
    console.print(table)

"""The command line of jobs/plan.py: what is computed, and how it is printed."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from orchestrator.config.command_line import parse_with
from orchestrator.config.plain import with_absolute_paths
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data import format as latents_format
from orchestrator.errors import UserError
from orchestrator.exits import mistakes_explained
from orchestrator.planning.machine import COMPILED, CONTEXT_BYTES, FRAGMENTATION, Machine, machine_of
from orchestrator.planning.options import PlanOptions
from orchestrator.sampling.grids import PREVIEW_ROWS, grid_columns

if TYPE_CHECKING:
    from orchestrator.planning.plan import Scale, Storage
    from orchestrator.planning.trace import StepTrace

BYTES_PER_GIGABYTE = 1e9
PAPER_SAMPLES = 50_000
"""Samples of FID-50K, by which the paper compares (Section 5.1, Table 1)."""


def main() -> None:
    """Print the plan of the run that the command line describes."""
    with mistakes_explained():
        config, options = parse_with(
            PlanOptions,
            "Say what a run will need before it is started: memory, time, cost, storage.",
            base="imagenet256_g2r",
        )
        print_plan(
            with_absolute_paths(config),
            options,
            Console(width=120, highlight=False, soft_wrap=True, markup=False),
        )


def print_plan(config: ExperimentConfig, options: PlanOptions, console: Console) -> None:
    """Trace a step, and print what the run will need by number of workers; start nothing.

    Raises:
        UserError: the config's own number of workers does not suit the machines.
    """
    # Imported here, because --help and mistakes need no torch.
    from orchestrator.planning.plan import scale, scales, storage_of
    from orchestrator.planning.speed import utilization
    from orchestrator.planning.trace import trace_step

    trace, machine = trace_step(config), machine_of(config, options)
    try:
        chosen = scale(config, max(1, config.train.workers), trace, machine, options)
    except ValueError as error:
        raise UserError(str(error)) from error
    storage = storage_of(config, trace)
    used = utilization(config, trace, chosen.images_per_second / chosen.workers, machine)
    console.print(
        f"{config.run.name}: {storage.parameters:,} parameters, "
        f"{trace.forward_flops_per_image / 2e9:.4g} GMAC forward, "
        f"{_short(trace.flops_per_image / 1e9)} GFLOP per trained image ({config.train.precision})"
    )
    console.print(_memory_table(config, chosen, machine))
    if machine.memory is not None:
        console.print(
            "Beside tensors a GPU holds the CUDA context, NCCL's buffers and workspaces "
            f"({CONTEXT_BYTES / 1e9:.0f} GB assumed) and pieces that its allocator cannot use "
            f'({FRAGMENTATION:.0%} assumed); "fits" counts them.'
        )
    if config.train.compile and machine.memory is not None:
        console.print(
            "The estimate is of blocks that are not compiled. Compiled ones hold more, by which "
            f'"fits" counts {COMPILED:.0%} on top (measured with two networks).'
        )
    possible, refused = scales(config, trace, machine, options)
    console.print(_scale_table(config, possible, machine, options))
    _print_assumptions(config, machine, options, used, refused, console)
    _print_storage(config, storage, console)
    _print_evaluation(config, trace, machine, used, options, console)


def _memory_table(config: ExperimentConfig, chosen: "Scale", machine: Machine) -> Table:
    train = config.train
    recomputed = f", branches {list(train.recompute_branches)} recomputed" if train.recompute_branches else ""
    table = Table(
        f"memory of a worker at its peak, in the {chosen.memory.moment}",
        "GB",
        title_justify="left",
        title=f"{chosen.workers} workers, {train.sharding}, {chosen.images_per_worker} images each in "
        f"{train.micro_batches} micro-batch(es){recomputed}",
    )
    for name, size in chosen.memory.parts.items():
        if size >= chosen.memory.total / 1000:
            table.add_row(name, _gigabytes(size))
    table.add_section()
    table.add_row("all tensors", _gigabytes(chosen.memory.total))
    if machine.memory is not None:
        verdict = "fits" if chosen.fits else "does not fit"
        table.add_row(f"{machine.name}: {verdict}", _gigabytes(machine.memory))
    return table


def _scale_table(
    config: ExperimentConfig, possible: "list[Scale]", machine: Machine, options: PlanOptions
) -> Table:
    on_gpu = machine.memory is not None
    unit = "GPU-hours" if on_gpu else "worker-hours"
    columns = ["workers", "images each", "GB each", *(["fits"] if on_gpu else []), "images/s", "hours", unit]
    table = Table(
        *columns,
        *(["cost"] if options.price is not None else []),
        title=f"{config.train.images:,} images on {machine.name}",
        title_justify="left",
    )
    for row in possible:
        cells = [str(row.workers), str(row.images_per_worker), _gigabytes(row.memory.total)]
        if on_gpu:
            cells.append(_verdict(row.fits, row.fitting_micro_batches))
        cells += [_short(row.images_per_second), _short(row.hours), _short(row.worker_hours)]
        if options.price is not None:
            cells.append(_short(row.worker_hours * options.price))
        table.add_row(*cells, style="bold" if row.workers == max(1, config.train.workers) else None)
    return table


def _verdict(fits: bool, micro_batches: int | None) -> str:
    if fits:
        return "yes"
    return f"with train.micro_batches {micro_batches}" if micro_batches else "no"


def _print_assumptions(
    config: ExperimentConfig,
    machine: Machine,
    options: PlanOptions,
    used: float,
    refused: list[str],
    console: Console,
) -> None:
    peak = f"{machine.flops[config.train.precision] / 1e12:,.3g} TFLOP/s in {config.train.precision}"
    if options.images_per_second_per_worker is not None:
        console.print(f"Speed as given; that is {used:.1%} of {peak}. It is taken to grow with the workers.")
    else:
        source = "assumed, not measured"
        if options.mfu is not None:
            source = "as given"
        elif machine.bandwidth is not None:
            source = "estimated from arithmetic and memory traffic, by a factor measured with two networks"
        console.print(
            f"Speed: {used:.0%} of {peak} ({source}); communication, waiting for data, checkpoints and "
            "restarts are not counted. Measure with `python jobs/benchmark.py gpu` (or train) and give --mfu "
            "or --images_per_second_per_worker."
        )
    console.print(f"Possible numbers of workers divide data.lanes {config.data.lanes}; no other is accepted.")
    for reason in refused:
        console.print(f"Not possible with {reason}")
    if options.price is None:
        console.print("Cost: give --price, what one GPU costs for one hour.")


def _print_storage(config: ExperimentConfig, storage: "Storage", console: Console) -> None:
    console.print(
        f"Checkpoint: {_gigabytes(storage.checkpoint)} GB each; {storage.checkpoints_kept} of "
        f"{storage.checkpoints_written} stay. Exported weights: {_gigabytes(storage.export)} GB each, "
        f"{storage.exports} of them. At most {_gigabytes(storage.total)} GB under {config.directory}."
    )
    if not latents_format.exists(config.data.path):
        console.print(f"Dataset: there is none at {config.data.path} yet.")
        return
    dataset = latents_format.open_dataset(config.data.path)
    size, epochs = sum(file.size for file in dataset.files), config.train.images / dataset.info.num_images
    console.print(
        f"Dataset: {_gigabytes(size)} GB, {dataset.num_rows:,} rows of {dataset.info.num_images:,} images; "
        f"training sees {epochs:,.1f} epochs."
    )


def _print_evaluation(
    config: ExperimentConfig,
    trace: "StepTrace",
    machine: Machine,
    used: float,
    options: PlanOptions,
    console: Console,
) -> None:
    from orchestrator.planning.plan import network_evaluations, previews, sampling_hours

    sampling, unit = config.sampling, "GPU-hours" if machine.memory is not None else "worker-hours"
    grid = PREVIEW_ROWS * grid_columns(config)
    console.print(
        f"Sampling ({sampling.sampler.kind}, {sampling.sampler.steps} steps, "
        f"guidance {sampling.guidance.kind}, {sampling.precision}): {network_evaluations(config)} passes "
        "through the network an image, without decoding."
    )
    wanted = {
        f"{previews(config)} previews of {grid} images": previews(config) * grid,
        f"evaluation at the end, {config.evaluation.images:,} images": config.evaluation.images,
    }
    if config.train.score_every_images:
        count = config.train.images // config.train.score_every_images
        wanted[f"{count} scores beside training of {config.train.score_images:,} images"] = (
            count * config.train.score_images
        )
    if config.evaluation.images != PAPER_SAMPLES:
        wanted[f"{PAPER_SAMPLES:,} images, as the paper's FID"] = PAPER_SAMPLES
    for what, images in wanted.items():
        hours = images * sampling_hours(config, trace, machine, used, options)
        cost = f", cost {_short(hours * options.price)}" if options.price is not None else ""
        console.print(f"  {what}: {_short(hours)} {unit}{cost}")


def _gigabytes(size: float) -> str:
    return f"{size / BYTES_PER_GIGABYTE:.3g}" if size < 1e11 else f"{size / BYTES_PER_GIGABYTE:,.0f}"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"

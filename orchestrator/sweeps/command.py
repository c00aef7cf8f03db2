"""The command line of jobs/ablate.py."""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrator import storage
from orchestrator.artifacts import millions
from orchestrator.config.command_line import merged, parse_with
from orchestrator.config.plain import with_absolute_paths
from orchestrator.config.presets import preset_names
from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import UserError
from orchestrator.exits import mistakes_explained
from orchestrator.logs import terminal
from orchestrator.planning.options import PlanOptions
from orchestrator.run.terminal import warn_of_temporary_folder
from orchestrator.sweeps.suites import Cell, ScaleName, Suite, cells_of, load_suite, suite_names


@dataclass(frozen=True, kw_only=True)
class AblateOptions(PlanOptions):
    """The options of a sweep; gpu, price and the like say what paper scale will cost."""

    suite: str = "branches-x-conditioning"
    """A suite's name, or the path of a YAML file of one."""
    scale: ScaleName = "nano"
    """nano: minutes on a laptop, on the quickstart's digits; paper: the paper's settings."""
    prune: bool = True
    """Stop trials whose distance is in the worse half at a score during training.

    This is asynchronous successive halving.
    """
    finalists: int = 3
    """Best trials that are sampled again, with evaluation.images images and several seeds."""
    seeds: int = 3
    """How many seeds each finalist is sampled with."""
    resume: bool = False
    """Refuse to start a new sweep: there must be one to continue. (The same command continues one anyway.)"""
    dry_run: bool = False
    """Only show the trials, and at paper scale what they will cost."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.finalists < 0 or self.seeds < 1:
            raise ValueError("finalists must not be negative, and seeds at least 1")


def main() -> None:
    """Run the sweep that the command line describes."""
    with mistakes_explained():
        ablate(sys.argv[1:])


def ablate(arguments: Sequence[str]) -> None:
    """Show the trials, run them, and write the table and plots.

    Raises:
        UserError: something that the user can mend is wrong. Finished trials stay.
    """
    description = f"Run a suite of trials and compare them. Suites: {', '.join(suite_names())}."
    config, options = parse_with(AblateOptions, description, suite_base, arguments)
    config = with_absolute_paths(_named_after_its_suite(config, options))
    console, suite = terminal(), load_suite(options.suite)
    warn_of_temporary_folder(config, console)
    cells = cells_of(suite, options.scale, config)
    _print_trials(suite, cells, config, options, console)
    if options.dry_run:
        return
    if options.resume and not storage.sizes(config.directory):
        raise UserError(
            f"There is no sweep at {config.directory} to resume; leave out --resume to start one."
        )
    from orchestrator.sweeps.ablation import Sweep, run_sweep

    sweep = Sweep(
        config=config,
        suite=suite,
        cells=cells,
        prune=options.prune,
        finalists=options.finalists,
        seeds=options.seeds,
    )
    run_sweep(sweep, console)


def suite_base(options: AblateOptions) -> dict[str, Any]:
    """The suite's presets at the scale asked for, and the sweep's name."""
    suite = load_suite(options.suite)
    if options.scale not in suite.scales:
        raise UserError(f"The suite has no scale {options.scale!r}; it has: {', '.join(suite.scales)}.")
    base = merged(suite.scales[options.scale])
    return base | {"run": base.get("run", {}) | {"name": f"{Path(options.suite).stem}-{options.scale}"}}


def _named_after_its_suite(config: ExperimentConfig, options: AblateOptions) -> ExperimentConfig:
    """The config, renamed where ``--config`` has named it like a preset: that folder is a run's own."""
    if config.run.name not in preset_names():
        return config
    name = f"{Path(options.suite).stem}-{config.run.name}"
    return dataclasses.replace(config, run=dataclasses.replace(config.run, name=name))


def _print_trials(
    suite: Suite, cells: list[Cell], config: ExperimentConfig, options: AblateOptions, console: Console
) -> None:
    # Here, because --help needs no torch.
    from dimr_model.complexity import count_macs, count_parameters

    # Cells with the same config share a trial.
    own = [cell for cell in cells if cell.config is not None and not cell.same_as]
    hours: dict[str, float] = {}
    columns = ["parameters", "MACs", "depths", "widths"]
    if options.scale == "paper":
        hours = {cell.name: _hours(cell.config, options) for cell in own if cell.config is not None}
        columns += ["GPU-hours", "cost"] if options.price else ["GPU-hours"]
    table = Table(*(axis.name for axis in suite.axes), *columns, title=suite.title)
    for cell in cells:
        names = [option.name for option in cell.options]
        if cell.config is None:
            table.add_row(*names, "not possible")
            continue
        model = cell.config.model
        sizes = [millions(count_parameters(model)), millions(count_macs(model))]
        sizes += [", ".join(map(str, values)) for values in (model.depths, model.widths)]
        if cell.name in hours:
            needed = hours[cell.name]
            sizes += [f"{needed:,.0f}", *([f"{needed * options.price:,.0f}"] if options.price else [])]
        table.add_row(*names, *sizes)
    console.print(table)
    for cell in cells:
        if cell.config is None:
            name = " ".join(option.name for option in cell.options)
            console.print(f"{name} is not possible: {cell.reason}", soft_wrap=True, highlight=False)
    console.print(_summary(len(own), sum(hours.values()), config, options), soft_wrap=True)


def _summary(count: int, hours: float, config: ExperimentConfig, options: AblateOptions) -> str:
    """How much the ``count`` trials are, in one sentence."""
    trials = f"{count} trials of {config.train.images:,} images"
    if options.scale == "paper":
        cost = f", cost {hours * options.price:,.0f}" if options.price else " (give --price for the cost)"
        return (
            f"{trials}: {hours:,.0f} GPU-hours on {options.gpu} in all{cost}, if none is pruned; scores and "
            "finalists come on top (jobs/plan.py has them)."
        )
    again = (
        f"; then the best {options.finalists} are sampled again, {options.seeds} times "
        f"{config.evaluation.images:,} images each"
    )
    return f"{trials}{again if options.finalists else ''}."


def _hours(config: ExperimentConfig, options: PlanOptions) -> float:
    from orchestrator.planning.machine import machine_of
    from orchestrator.planning.plan import scale
    from orchestrator.planning.trace import trace_step

    workers = max(1, config.train.workers)
    return scale(config, workers, trace_step(config), machine_of(config, options), options).worker_hours

"""A suite is a YAML file with axes of options.

Each option is a change to a config. The suite's cells are the product of its axes.
"""

import copy
import dataclasses
import itertools
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser

from orchestrator.config.mistakes import did_you_mean, did_you_mean_path, mistake_in, type_of
from orchestrator.config.plain import flatten, from_dict, to_dict
from orchestrator.config.presets import PRESETS
from orchestrator.config.schema import ExperimentConfig
from orchestrator.config.yaml_files import read_yaml
from orchestrator.errors import UserError

SUITES = PRESETS / "suites"
TABLE_FILE = "table.csv"
"""In a sweep's folder: what it found."""
TRIALS_FOLDER = "trials"
"""In a sweep's folder: a run for every trial."""
COLUMNS = {"parameters", "macs", "MACs", "status", "images_seen", "seeds", "note", "finished", "paper_source"}
"""Columns that every table has beside the suite's axes."""
ScaleName = Literal["nano", "paper"]
Changes = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Option:
    """One value of an axis."""

    name: str
    """Name in the table; together with those of the other axes' options it names the trial's folder."""
    branches: int | None = None
    """How many of the network's branches to keep, the coarsest ones; null: all."""
    match: Literal["parameters", "macs"] | None = None
    """Whether to scale the widths so that the network has the size that it has with all branches, within 2%.

    The size is its parameters or its multiply-adds.
    """
    changes: Changes = field(default_factory=dict)
    """Dotted setting -> value, as on the command line."""
    scales: dict[ScaleName, Changes] = field(default_factory=dict)
    """Further changes at one scale only."""
    paper: dict[str, str] = field(default_factory=dict)
    """What the paper reports for it as metric -> text, such as fid: 3.65 and source: Table 2, row 6."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What is varied: a list of options."""

    name: str
    options: list[Option]

    def __post_init__(self) -> None:
        names = [option.name for option in self.options]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"axis {self.name!r} needs options with names that differ, and has {names}")


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What is compared: axes of options, at one scale or several."""

    title: str
    scales: dict[ScaleName, list[str]]
    """Scale -> presets and config files, applied in order."""
    axes: list[Axis]
    metrics: list[str] = field(default_factory=list)
    """Further metrics of the samples for the table, without count and extractor, as class_agreement."""

    def __post_init__(self) -> None:
        names = [axis.name for axis in self.axes]
        if not names:
            raise ValueError("a suite needs at least one axis")
        if len(set(names)) < len(names):
            raise ValueError(f"a suite's axes need names that differ, and they are {names}")
        if taken := sorted(COLUMNS.intersection(names)):
            raise ValueError(f"an axis cannot be called {taken[0]!r}: the table has a column of that name")


@dataclass(frozen=True)
class Cell:
    """One combination of options: a trial, or the reason why there can be none."""

    options: tuple[Option, ...]
    config: ExperimentConfig | None
    """The trial's config, but for its own run.name and run.root; None where it is not possible."""
    reason: str = ""
    """Why the cell is not possible."""
    same_as: str = ""
    """Name of an earlier cell with the very same config, whose trial serves both."""

    @property
    def name(self) -> str:
        """The name of the trial's folder."""
        return "-".join(re.sub(r"[^A-Za-z0-9._-]+", "_", option.name).strip("_.") for option in self.options)

    @property
    def paper(self) -> dict[str, str]:
        """What the paper reports for the cell; where several options say something, the last counts."""
        return {key: value for option in self.options for key, value in option.paper.items()}


def suite_names() -> list[str]:
    """Names that ``--suite`` takes beside paths."""
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def load_suite(name: str) -> Suite:
    """Read a suite by its name, or by the path of its file.

    Raises:
        UserError: there is no such suite, or it is not valid.
    """
    path = next((p for p in (SUITES / f"{name}.yaml", Path(name)) if p.is_file()), None)
    if path is None:
        hint = did_you_mean_path(name) if "/" in name else did_you_mean(name, suite_names())
        raise UserError(
            f"There is no suite or file {name!r}. {hint}Suites: {', '.join(suite_names())}; or the path "
            "of a YAML file."
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Suite, "suite")
    plain: Any = {}
    try:
        plain = read_yaml(path)
        parsed = parser.parse_object({"suite": copy.deepcopy(plain)})
        suite: Suite = parser.instantiate_classes(parsed).suite
    except (ArgumentError, ValueError, TypeError) as error:
        found = mistake_in(Suite, plain, "") or " ".join(str(error).split())
        raise UserError(f"The suite {path} is not valid: {found}") from error
    return suite


def cells_of(suite: Suite, scale: ScaleName, base: ExperimentConfig) -> list[Cell]:
    """Every combination of options, the last axis varying fastest; impossible ones with their reason.

    Raises:
        UserError: a change names a setting that does not exist, or no combination is possible.
    """
    cells = [
        _cell(options, scale, base) for options in itertools.product(*(axis.options for axis in suite.axes))
    ]
    names = [cell.name for cell in cells]
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise UserError(f"Options of the suite give the same folder {repeated[0]!r}; name them otherwise.")
    if all(cell.config is None for cell in cells):
        raise UserError(f"No combination of the suite is possible: {cells[0].reason}")
    first: dict[ExperimentConfig | None, str] = {}
    return [_shared(cell, first.setdefault(cell.config, cell.name)) for cell in cells]


def _shared(cell: Cell, first: str) -> Cell:
    """The cell, which is the same trial as the first one with its config."""
    is_other = cell.config is not None and first != cell.name
    return dataclasses.replace(cell, same_as=first) if is_other else cell


def _cell(options: tuple[Option, ...], scale: ScaleName, base: ExperimentConfig) -> Cell:
    changes: Changes = {}
    for option in options:
        changes |= option.changes | option.scales.get(scale, {})
    _check_keys(changes, base)
    try:
        return Cell(options, _configure(options, changes, base))
    except ArgumentError as error:
        found = (mistake_in(type_of(ExperimentConfig, key), value, key) for key, value in changes.items())
        told = next((text for text in found if text), " ".join(str(error).split()))
        raise UserError(f"The suite's changes {changes} are not valid: {told}") from error
    except (ValueError, UserError) as error:
        return Cell(options, None, str(error))


def _configure(options: tuple[Option, ...], changes: Changes, base: ExperimentConfig) -> ExperimentConfig:
    # Here, because --help needs no torch.
    from dimr_model.matching import match, measure, with_branches

    branches = min((option.branches for option in options if option.branches), default=None)
    matched = next((option.match for option in options if option.match), None)
    reduced = base
    if branches is not None:
        reduced = dataclasses.replace(base, model=with_branches(base.model, branches))
    config = _changed(reduced, changes)
    if matched is None or branches in (None, base.model.num_branches):
        return config
    try:
        whole = _changed(base, changes).model
    except (ValueError, UserError):
        whole = base.model  # The changes are possible with fewer branches only.
    return dataclasses.replace(config, model=match(config.model, measure(whole, matched), matched))


def _changed(config: ExperimentConfig, changes: Changes) -> ExperimentConfig:
    plain = to_dict(config)
    for key, value in changes.items():
        *sections, name = key.split(".")
        inner = plain
        for section in sections:
            inner = inner[section]
        inner[name] = value
    return from_dict(plain)


def _check_keys(changes: Changes, base: ExperimentConfig) -> None:
    known = flatten(base)
    for key in changes:
        if key not in known:
            hint = did_you_mean(key, known, cutoff=0.5)
            raise UserError(f"The suite changes {key!r}, which is no setting. {hint}".strip())

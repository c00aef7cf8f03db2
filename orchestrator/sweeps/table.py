"""The table of a sweep as CSV, Markdown and in MLflow, with the paper's numbers in columns of their own."""

import json
import statistics
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrator import storage
from orchestrator.artifacts import csv_of, millions
from orchestrator.config.schema import ExperimentConfig
from orchestrator.run.folder import write_text
from orchestrator.run.terminal import print_logs
from orchestrator.scoring.protocol import count_name, distance_name, score_name
from orchestrator.sweeps.plots import write_plots
from orchestrator.sweeps.results import TrialResult
from orchestrator.sweeps.suites import TABLE_FILE, Axis, Suite

TABLE_FILES = (TABLE_FILE, "table.md", "table.json")
OVER_SEEDS = "Mean and deviation over training seeds"


def rows_of(suite: Suite, config: ExperimentConfig, results: list[TrialResult]) -> list[dict[str, Any]]:
    """The rows of the table as column -> value, None where there is nothing."""
    full = count_name(config.evaluation.images)
    first, *others = config.evaluation.extractors
    distance = distance_name(first)
    paper = sorted({key for result in results for key in result.cell.paper} - {"source"})
    rows = []
    for result in results:
        row: dict[str, Any] = {
            axis.name: option.name for axis, option in zip(suite.axes, result.cell.options, strict=True)
        }
        row |= {"parameters": result.parameters, "macs": result.macs, "status": result.status}
        row["images_seen"] = result.scores[-1][0] if result.scores else None
        row |= _own_scores(suite, config, result)
        # Columns without an extractor's name are the first one's.
        columns = {(name, first): f"{name}{full}" for name in (distance, *suite.metrics)}
        columns |= {(distance_name(kind), kind): f"{distance_name(kind)}{full}_{kind}" for kind in others}
        for (name, kind), column in columns.items():
            found = [final.values() for final in result.finals]
            values = [one.get((name, kind), one.get((name, None))) for one in found]
            known = [value for value in values if value is not None]
            row[f"{column}_mean"] = statistics.mean(known) if known else None
            row[f"{column}_deviation"] = statistics.stdev(known) if len(known) > 1 else None
        row["seeds"] = len(result.finals) or None
        row |= {f"paper_{key}": result.cell.paper.get(key) for key in paper}
        if paper:
            row["paper_source"] = result.cell.paper.get("source")
        row["note"] = result.note
        rows.append(row)
    return rows


def write_results(
    suite: Suite, config: ExperimentConfig, results: list[TrialResult], tracker: Any, console: Console
) -> None:
    """Write the table and plots into the sweep's folder and to MLflow, and print the table."""
    rows, folder = write_table(suite, config, results), config.directory
    for file in TABLE_FILES:
        tracker.log_artifact.remote(file)
    tracker.log_tags.remote({"mlflow.loggedArtifacts": json.dumps([{"path": "table.json", "type": "table"}])})
    distance = _score_columns(suite, config)[0]
    for name in write_plots(suite, results, folder, distance):
        tracker.log_image.remote(name, f"{name}.png", 0)
    _print(suite.title, shown(suite, rows), console)
    if means := over_training_seeds(suite, config, results):
        _print(OVER_SEEDS, means, console)
    for row in rows:
        if row["note"]:
            name = " ".join(str(row[axis.name]) for axis in suite.axes)
            console.print(f"{name}: {row['status']}: {row['note']}", soft_wrap=True, highlight=False)
    console.print(f"Table and plots: {folder}", soft_wrap=True, highlight=False)
    print_logs(console)


def write_table(suite: Suite, config: ExperimentConfig, results: list[TrialResult]) -> list[dict[str, Any]]:
    """Write the table alone into the sweep's folder, in its three forms, and return its rows."""
    rows, folder = rows_of(suite, config, results), config.directory
    storage.write_bytes(storage.join(folder, TABLE_FILE), csv_of(rows))
    text = markdown(shown(suite, rows))
    if means := over_training_seeds(suite, config, results):
        text += f"\n{OVER_SEEDS}:\n\n{markdown(means)}"
    write_text(folder, "table.md", text)
    # The form of MLflow's own tables, which its UI shows.
    table = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
    write_text(folder, "table.json", json.dumps(table))
    return rows


def shown(suite: Suite, rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The table for people, without columns that are empty throughout.

    Sizes are in millions, and a mean and its deviation share a column.
    """
    table = [_shown(suite, row) for row in rows]
    columns = [column for column in table[0] if any(row[column] for row in table)]
    return [{column: row[column] for column in columns} for row in table]


def _shown(suite: Suite, row: dict[str, Any]) -> dict[str, str]:
    is_partial = row["status"] != "finished" and row["images_seen"] is not None
    text = {axis.name: row[axis.name] for axis in suite.axes}
    text |= {
        "parameters": millions(row["parameters"]),
        "MACs": millions(row["macs"]),
        "status": f"{row['status']} at {row['images_seen']:,}" if is_partial else row["status"],
    }
    for name, value in row.items():
        if name.endswith("_mean"):
            deviation = row[name.replace("_mean", "_deviation")]
            column = name.removesuffix("_mean")
            # Scores of as many samples as the evaluation's have a column of that name.
            column += " of finalists" if column in row else ""
            text[column] = "" if value is None else mean_and_deviation(value, deviation)
        elif name.startswith("paper_"):
            text[f"the paper's {name.removeprefix('paper_')}"] = value or ""
        elif isinstance(value, float) and not name.endswith("_deviation"):
            text[name] = f"{value:.4g}"
        elif name not in (*text, "macs", "images_seen", "seeds", "note") and not name.endswith("_deviation"):
            text[name] = ""
    return text


def mean_and_deviation(mean: float, deviation: float | None) -> str:
    """Both as text; one value has no deviation."""
    return f"{mean:.4g}" + ("" if deviation is None else f" ± {deviation:.2g}")


def over_training_seeds(
    suite: Suite, config: ExperimentConfig, results: list[TrialResult]
) -> list[dict[str, str]]:
    """Mean and deviation of finished trials' scores over the axes that change ``run.seed`` alone.

    There are no rows where the suite has no such axis.
    """
    kept = [place for place, axis in enumerate(suite.axes) if not _is_of_seeds(axis)]
    if len(kept) == len(suite.axes):
        return []
    groups: dict[tuple[str, ...], dict[str, dict[str, float | None]]] = {}
    for result in results:
        group = groups.setdefault(tuple(result.cell.options[place].name for place in kept), {})
        if result.status == "finished":
            # Cells that share a trial count once, in each group that has one.
            group[result.cell.same_as or result.cell.name] = _own_scores(suite, config, result)
    rows = []
    for names, found in groups.items():
        row = {suite.axes[place].name: name for place, name in zip(kept, names, strict=True)}
        row["finished"] = str(len(found))
        for column in _score_columns(suite, config):
            known = [value for scores in found.values() if (value := scores[column]) is not None]
            deviation = statistics.stdev(known) if len(known) > 1 else None
            row[column] = mean_and_deviation(statistics.mean(known), deviation) if known else ""
        rows.append(row)
    return rows


def _score_columns(suite: Suite, config: ExperimentConfig) -> list[str]:
    """The columns of a trial's own scores: its distance, and the suite's metrics."""
    metrics = (distance_name(config.evaluation.extractors[0]), *suite.metrics)
    return [f"{metric}{count_name(config.train.score_images)}" for metric in metrics]


def _own_scores(suite: Suite, config: ExperimentConfig, result: TrialResult) -> dict[str, float | None]:
    """The distance at a trial's last score, and the suite's metrics where it is finished."""
    count, first = config.train.score_images, config.evaluation.extractors[0]
    distance, *columns = _score_columns(suite, config)
    scores: dict[str, float | None] = {distance: result.distance}
    for metric, column in zip(suite.metrics, columns, strict=True):
        # A trial's checkpoints are scored by their EMA weights.
        names = [score_name(metric, count, extractor, "ema") for extractor in (first, None)]
        scores[column] = next((result.metrics[name] for name in names if name in result.metrics), None)
    return scores


def _is_of_seeds(axis: Axis) -> bool:
    changed = {
        setting
        for option in axis.options
        for changes in (option.changes, *option.scales.values())
        for setting in changes
    }
    return changed == {"run.seed"} and all(option.branches is None for option in axis.options)


def markdown(table: list[dict[str, str]]) -> str:
    """A table of text as Markdown."""
    lines = [
        "| " + " | ".join(row.values()) + " |" for row in [dict(zip(table[0], table[0], strict=True)), *table]
    ]
    return "\n".join([lines[0], "|" + "---|" * len(table[0]), *lines[1:]]) + "\n"


def _print(title: str, text: list[dict[str, str]], console: Console) -> None:
    table = Table(*text[0], title=title)
    for line in text:
        table.add_row(*line.values())
    console.print(table)

"""From runs and sweeps to the page."""

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from typing import Any

import jinja2

from orchestrator.artifacts import millions
from orchestrator.config.plain import flatten
from orchestrator.report.comparison import indistinguishable, value_text
from orchestrator.report.plots import Plot, curves, precision_and_recall
from orchestrator.report.reading import RunData, SweepData
from orchestrator.sampling.grids import grid_columns
from orchestrator.sampling.progress import film, film_strip
from orchestrator.scoring.protocol import KINDS_OF_WEIGHTS, count_name

NOT_OF_THE_METHOD = ("weights", "images_seen", "samples", "seed", "settings", "classifier")
"""Parts of a protocol in which rows may differ and still be compared, or which have columns of their own."""

PLACES = ("run.name", "run.root", "tracking.uri")
"""Settings that say where a run is, and nothing about what it does."""


def render(runs: Sequence[RunData], sweeps: Sequence[SweepData]) -> str:
    """Render the page as HTML, with everything inside.

    Args:
        runs: runs that belong to no sweep of ``sweeps``; a sweep brings its trials with it.
    """
    everyone = _told_apart([*runs, *(trial for sweep in sweeps for trial in sweep.trials)])
    scored = [(run, one) for run in everyone for one in (run.final, *run.evaluations) if one.get("metrics")]
    plots = curves(everyone)
    if (pareto := precision_and_recall(everyone)) is not None:
        plots["Precision against recall"] = pareto
    names = [sweep.title for sweep in sweeps] + [run.name for run in runs]
    content = {
        "title": ", ".join(names),
        "subtitle": "; ".join(f"{run.name}: {run.status.lower()}, began {run.began}" for run in everyone),
        "sweeps": [
            {"title": s.title, "rows": s.rows, "plots": [_uri(plot, "image/png") for plot in s.plots]}
            for s in sweeps
        ],
        "setup": [_setup(run) for run in everyone],
        "differences": _differences(everyone),
        "scores": _score_rows(scored),
        "notes": _notes(scored),
        "protocols": [
            {"name": f"{run.name}: {name}", "text": json.dumps(entry["protocol"], indent=1)}
            for run, one in scored
            for name, entry in one["metrics"].items()
        ],
        "plots": {title: _plot(plot) for title, plot in plots.items()},
        "runs": [_pictures(run) for run in everyone],
        "studies": _studies(everyone),
        "cost": [_cost(run) for run in everyone],
    }
    template = resources.files(__package__).joinpath("report.html").read_text(encoding="utf-8")
    return (
        jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
        .from_string(template)
        .render(content)
    )


def _told_apart(runs: Sequence[RunData]) -> list[RunData]:
    """Call runs of the same name by their folders."""
    names = [run.name for run in runs]
    return [replace(run, name=run.folder) if names.count(run.name) > 1 else run for run in runs]


def _setup(run: RunData) -> dict[str, str]:
    config, model, train = run.config, run.config.model, run.config.train
    return {
        "run": run.name,
        "network": f"{model.num_branches} branches, depths {_listed(model.depths)}, "
        f"widths {_listed(model.widths)}, {model.time_conditioning}",
        "parameters": millions(run.parameters),
        "MACs per image": millions(run.macs),
        "data": run.dataset,
        "images": f"{run.images_seen:,} of {train.images:,}",
        "batch": f"{train.batch_size}",
        "learning rate": f"{train.learning_rate:g}",
        "diffusion": config.diffusion.words,
        "workers": f"{max(1, train.workers)} {run.unit}{'s' if train.workers > 1 else ''}, {train.precision}",
        "seed": str(config.run.seed),
    }


def _differences(runs: Sequence[RunData]) -> list[dict[str, str]]:
    """Make a row for each setting that is not the same in all runs."""
    settings = [flatten(run.config) for run in runs]
    return [
        {"setting": key, **{run.name: str(one.get(key)) for run, one in zip(runs, settings, strict=True)}}
        for key in settings[0]
        if key not in PLACES and len({str(one.get(key)) for one in settings}) > 1
    ]


def _listed(values: Sequence[int]) -> str:
    return "/".join(map(str, values))


def _score_rows(scored: Sequence[tuple[RunData, dict[str, Any]]]) -> list[dict[str, str]]:
    """Make a row for each extractor that looked at a set of samples."""
    found = []
    for run, one in scored:
        metrics = {name: entry for name, entry in one["metrics"].items() if "samples" in entry["protocol"]}
        extractors = dict.fromkeys(filter(None, map(_extractor_of, metrics.values())))
        for number, extractor in enumerate(extractors or {"": None}):
            # What no extractor measured stands in the first row.
            mine = {
                name: entry
                for name, entry in metrics.items()
                if _extractor_of(entry) == extractor or (number == 0 and not _extractor_of(entry))
            }
            if mine:
                found.append(_score_row(run, one["images_seen"] or 0, extractor, mine))
    columns = list(dict.fromkeys(column for row in found for column in row))
    return [{column: row.get(column, "") for column in columns} for row in found]


def _score_row(run: RunData, images_seen: int, extractor: str, metrics: dict[str, Any]) -> dict[str, str]:
    protocol = next(iter(metrics.values()))["protocol"]
    guidance = protocol["guidance"]
    row = {
        "run": run.name,
        "images seen": f"{images_seen:,}",
        "weights": protocol["weights"]["kind"],
        "samples": f"{protocol['samples']:,}",
        "sampler": f"{protocol['sampler']['kind']}, {protocol['sampler']['steps']} steps",
        "guidance": guidance["kind"] + (f" {guidance['scale']:g}" if "scale" in guidance else ""),
        "seed": str(protocol["seed"]),
        "features of": extractor,
    }
    for name, entry in metrics.items():
        paper = f" (the paper's: {entry['paper']})" if entry.get("paper") else ""
        row[_bare(name, protocol["samples"], extractor)] = f"{value_text(entry)}{paper}"
    floors = [
        value_text(entry)
        for vae in run.vaes
        for entry in vae["metrics"].values()
        if extractor and entry["protocol"].get("extractor") == protocol.get("extractor")
    ]
    if floors:
        row["floor by the VAE"] = ", ".join(floors)
    return row


def _extractor_of(entry: dict[str, Any]) -> str:
    return str(entry["protocol"].get("extractor", {}).get("name", ""))


def _bare(name: str, samples: int, extractor: str) -> str:
    """``fd1k_efficientnet_lite0_ema`` -> ``fd``: the count and the extractor have columns of their own."""
    for known in (count_name(samples), f"_{extractor}", *(f"_{kind}" for kind in KINDS_OF_WEIGHTS)):
        name = name.replace(known, "", 1)
    return name.replace("_", " ").strip()


def _notes(scored: Sequence[tuple[RunData, dict[str, Any]]]) -> list[str]:
    warned: dict[str, list[str]] = {}
    for run, one in scored:
        for warning in one.get("warnings", []):
            warned.setdefault(warning, []).append(run.name)
    said = [f"{', '.join(dict.fromkeys(names))}: {warning}" for warning, names in warned.items()]
    said += indistinguishable(scored)
    said += [
        f"{name}: {value_text(entry)}, {entry['meaning']}"
        for run, one in scored
        for measured in (one, *run.vaes)
        for name, entry in measured["metrics"].items()
        if "samples" not in entry["protocol"]
    ]
    # Extractors are compared with themselves: each has features and statistics of its own.
    values: dict[tuple[str, str], set[str]] = {}
    for _, one in scored:
        for entry in one["metrics"].values():
            if {"samples", "reference"} <= entry["protocol"].keys():
                for key, value in entry["protocol"].items():
                    alike = values.setdefault((_extractor_of(entry), key), set())
                    alike.add(json.dumps(value, sort_keys=True))
    differing = dict.fromkeys(
        key for (_, key), found in values.items() if len(found) > 1 and key not in NOT_OF_THE_METHOD
    )
    if differing:
        said.insert(
            0,
            f"These rows were not measured alike ({', '.join(differing)} differ); "
            "compare only those that were.",
        )
    return list(dict.fromkeys(said))


def _pictures(run: RunData) -> dict[str, Any]:
    grids, columns = [], grid_columns(run.config)

    def add(kind: str, content: bytes, caption: str) -> None:
        mime = "image/webp" if kind == "film" else "image/png"
        grids.append({"kind": kind, "data": _uri(content, mime), "caption": caption})

    if len(run.previews) > 1:
        add("film", film(run.previews, columns), "the same noise at each checkpoint, one after another")
    if run.samples:
        add("samples", run.samples, f"the first hundred samples{_after(run)}, uncurated")
    if run.previews:
        strip = film_strip(run.previews, columns)
        add("strip", strip, "the same noise at each checkpoint, one below the other")
    return {
        "name": run.name,
        "grids": grids,
        "branches": _uri(run.branches, "image/png") if run.branches else "",
        "nearest": _uri(run.nearest, "image/png") if run.nearest else "",
        "guidance": [_uri(plot, "image/png") for plot in run.guidance],
    }


def _after(run: RunData) -> str:
    """Say after how many images the run's own scores were made; by now it may have seen more."""
    seen = run.final.get("images_seen")
    return "" if seen is None else f" after {seen:,} images"


def _studies(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    studies = {json.dumps(study, sort_keys=True): study for run in runs for study in run.studies}
    return [
        {
            "caption": f"Probability of the conditioned class under {study['threshold']:g}, "
            f"by {study['classifier']['name']}.",
            "rows": [
                {
                    "images of": row["images_of"],
                    "images": f"{row['images']:,}",
                    "low-fidelity rate": f"{row['rate']:.2%}",
                    "95% interval": f"{row['rate_low']:.2%} to {row['rate_high']:.2%}",
                }
                for row in study["images"]
            ],
        }
        for study in studies.values()
    ]


def _cost(run: RunData) -> dict[str, str]:
    speeds = [speed for _, speed in run.series.get("train/images_per_second", [])]
    speed = f"{sorted(speeds)[len(speeds) // 2]:,.4g}" if speeds else ""
    return {
        "run": run.name,
        "images seen": f"{run.images_seen:,}",
        "median images/s": speed,
        f"{run.unit}-hours": f"{run.worker_hours:,.3g}",
        # A backward pass computes about twice as much as a forward pass.
        "multiply-adds of training": f"{3 * run.macs * run.images_seen:.3g}",
        "whole command": f"{run.final['seconds']['total']:,.0f} s"
        if "total" in run.final.get("seconds", {})
        else "",
    }


def _plot(plot: Plot) -> Plot:
    return {theme: _uri(svg.encode(), "image/svg+xml") for theme, svg in plot.items()}


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"

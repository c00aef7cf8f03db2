"""A run's folder: what makes it the same run, and when it is finished."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from orchestrator import storage
from orchestrator.checkpoints.selection import MARKER, Checkpoint, newest_valid
from orchestrator.config.command_line import names_config, parse_with
from orchestrator.config.mistakes import did_you_mean_path
from orchestrator.config.plain import flatten, to_dict, to_yaml
from orchestrator.config.saved import CONFIG_FILE, read_config
from orchestrator.config.schema import ExperimentConfig, RunConfig
from orchestrator.config.settings import keys_that_may_change
from orchestrator.errors import UserError
from orchestrator.run.inputs import Input, differences, inputs_of, read_inputs, write_inputs
from orchestrator.tracking.journal import newest_status, read_records

Options = TypeVar("Options")
METRICS_FILE = "metrics.json"
STRIP_FILE, FILM_FILE = "progress.png", "progress.webp"
SAMPLES_FILE, BRANCHES_FILE, NEAREST_FILE = "samples.png", "branches.png", "nearest.png"
"""Pictures of a finished run."""
DATASET_FILE = "dataset.json"
VAE_FOLDER = "vae"
"""Folder of run.root with scores of VAEs."""
SUITE_FILE = "suite.json"
"""In a sweep's folder: the suite that it was started with. No run lies in a folder that has one."""


@dataclass(frozen=True)
class Run:
    """An opened run folder."""

    directory: str
    checkpoint: Checkpoint | None
    """The checkpoint at which training stands."""
    is_finished: bool
    """Whether it is trained to the asked length and scored, and its journal says so."""
    was_cut_off: bool
    """Whether the process that ran it last ended without saying so."""


def refuse_a_sweep(directory: str) -> None:
    """Refuse a sweep's own folder: the run's journal would be the sweep's.

    Raises:
        UserError: a sweep was started there.
    """
    if storage.is_file(storage.join(directory, SUITE_FILE)):
        raise UserError(
            f"{directory} is the folder of a sweep. Give the run another --run.name. Nothing was changed."
        )


def open_run(config: ExperimentConfig, dataset_fingerprint: str) -> Run:
    """Create or continue the run's folder, whose lease is held, and record the config in it.

    Raises:
        UserError: the folder belongs to a sweep, or to a run with another config or dataset.
    """
    directory = config.directory
    refuse_a_sweep(directory)
    inputs = _refuse_other_config(config, dataset_fingerprint)
    write_inputs(directory, inputs)
    write_text(directory, DATASET_FILE, json.dumps({"fingerprint": dataset_fingerprint}))
    write_text(directory, CONFIG_FILE, to_yaml(config))
    checkpoint = newest_valid(directory)
    scored = read_metrics(directory)
    is_trained = checkpoint is not None and checkpoint.images_seen >= config.train.images
    is_scored = is_trained and checkpoint is not None and scored.get("images_seen") == checkpoint.images_seen
    status = newest_status(read_records(directory, metric=""))
    return Run(directory, checkpoint, is_scored and status == "FINISHED", status == "RUNNING")


def parse_beside(
    options: type[Options],
    description: str,
    weights: Callable[[Options], str],
    arguments: Sequence[str],
) -> tuple[ExperimentConfig, Options]:
    """The config and a job's own options, for jobs that start from weights.

    The command line changes the config that lies beside the weights; so does a ``--config``, without which
    there must be one there. What such a job writes belongs into the run's folder, where that is now: the
    config of a run that was moved or downloaded names the folder in which it was trained. Only ``--run.root``
    and ``--run.name`` have it elsewhere. A checkpoint that was taken out of its run gets the default root.

    Args:
        weights: the job's options -> a run's folder, or a checkpoint's.

    Raises:
        UserError: no config lies there, or the command line is not valid.
    """
    place: dict[str, str] = {}

    def base(chosen: Options) -> dict[str, Any]:
        found = _config_beside(weights(chosen), must_be_there=not names_config(arguments))
        place.update(found.get("run", {}))
        return found

    config, parsed = parse_with(options, description, base, arguments)
    given = {argument.split("=")[0] for argument in arguments}
    run = config.run
    if place and "--run.root" not in given:
        run = replace(run, root=place["root"])
    if "name" in place and "--run.name" not in given:
        run = replace(run, name=place["name"])
    return replace(config, run=run), parsed


def _config_beside(weights: str, must_be_there: bool) -> dict[str, Any]:
    path = weights.rstrip("/") if "://" in weights else str(Path(weights).expanduser().absolute())
    files = storage.sizes(path)
    if files.get(CONFIG_FILE) is None and not must_be_there:
        return {}
    if not files and not (storage.is_local(path) and Path(path).exists()):
        raise UserError(
            f"There is nothing at {path}. {did_you_mean_path(path)}Name a run's folder, a checkpoint's, an "
            "exported one, or a released file."
        )
    if files.get(CONFIG_FILE) is None:
        raise UserError(
            f"No {CONFIG_FILE} lies with {weights}; say which it was trained with: --config NAME or a YAML "
            "file."
        )
    # Read as a whole, so that the command line changes what is said by today's names.
    plain = to_dict(read_config(path))
    plain["run"] |= _place(path, is_checkpoint=MARKER in files)
    return plain


def _place(path: str, is_checkpoint: bool) -> dict[str, str]:
    """The root, and where it is known the name, of the run that a folder is or belongs to."""
    above, _, last = path.rpartition("/")
    if not is_checkpoint:
        return {"root": above, "name": last}
    root, _, name = above.removesuffix("/checkpoints").rpartition("/")
    return {"root": root, "name": name} if above.endswith("/checkpoints") else {"root": RunConfig.root}


def read_metrics(directory: str) -> dict[str, Any]:
    """The content of ``metrics.json``, or nothing where the run was not scored yet.

    Raises:
        UserError: it is damaged.
    """
    path = storage.join(directory, METRICS_FILE)
    try:
        content: dict[str, Any] = json.loads(storage.read_bytes(path)) if storage.is_file(path) else {}
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}). Delete it and score the run again.") from error
    return content


def write_text(directory: str, name: str, content: str) -> None:
    """Write a small file so that readers see the old or the new one, never half of it."""
    storage.write_bytes(storage.join(directory, name), content.encode())


def _refuse_other_config(config: ExperimentConfig, dataset_fingerprint: str) -> dict[str, Input]:
    """Refuse to go on with other settings or inputs than before, and return the inputs as they are now."""
    path = storage.join(config.directory, CONFIG_FILE)
    if not storage.is_file(path):
        return inputs_of(config, {})
    free = keys_that_may_change(ExperimentConfig)
    recorded = read_config(config.directory)
    before, now = flatten(recorded), flatten(config)
    differing = [
        f"{key} (was {before.get(key)!r}, now {now.get(key)!r})"
        for key in sorted(before.keys() | now.keys())
        if key not in free and before.get(key) != now.get(key)
    ]
    # Runs of older code have recorded none; what lies at the same places is taken for the same.
    begun_with = read_inputs(config.directory) or inputs_of(recorded, {})
    inputs = inputs_of(config, begun_with)
    differing += differences(begun_with, inputs)
    fingerprint = json.loads(storage.read_bytes(storage.join(config.directory, DATASET_FILE)))["fingerprint"]
    if fingerprint != dataset_fingerprint:
        differing.append(f"the dataset at {config.data.path} (was {fingerprint}, now {dataset_fingerprint})")
    if differing:
        raise UserError(
            f"The run {config.directory} exists with other settings: {'; '.join(differing)}. Give this "
            "experiment its own --run.name, or use the run's settings to continue it. Nothing was changed."
        )
    return inputs

"""A sweep: every possible cell of a suite as a trial through Ray Tune, then the best ones scored in full."""

import dataclasses
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from ray import tune
from ray.tune.execution import class_cache
from rich.console import Console

from orchestrator import cluster, storage
from orchestrator.config.plain import flatten
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.data.opening import open_or_prepare_dataset
from orchestrator.errors import UserError
from orchestrator.run.folder import METRICS_FILE
from orchestrator.scoring.prerequisites import require_all
from orchestrator.signals import run_in_thread
from orchestrator.stalls import answer
from orchestrator.storage.lease import holding
from orchestrator.sweeps.continuing import is_over, refuse_a_run, refuse_other_lengths, refuse_other_suite
from orchestrator.sweeps.live_table import LiveTable
from orchestrator.sweeps.pruning import (
    PRUNED_FILE,
    Pruned,
    refuse_unlike_scores,
    scheduler,
    unprune,
    why_pruned,
)
from orchestrator.sweeps.results import Finalist, ResultsSoFar, TrialResult, results_of
from orchestrator.sweeps.suites import TRIALS_FOLDER, Cell, Suite
from orchestrator.sweeps.table import write_results, write_table
from orchestrator.sweeps.trial import Trials, final_distance, run_trial
from orchestrator.sweeps.watch import TrialWatch
from orchestrator.tracking.journal import read_records
from orchestrator.tracking.tracker import close_tracker, ending, start_tracker, tracking_uri

MAX_FAILURES = 2
EMBEDDED_CPUS = 6
"""Logical CPUs of an embedded Ray.

They are enough for two small trials side by side, each a worker, reading and scoring. These keep two cores
busy.
"""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A suite's trials, and how they are run."""

    config: ExperimentConfig
    """Base of all cells; its run.name and run.root say where the sweep lies."""
    suite: Suite
    cells: list[Cell]
    prune: bool
    finalists: int
    seeds: int

    @property
    def trials(self) -> dict[str, ExperimentConfig]:
        """Name -> config of every possible cell, which is a run of its own in the sweep's folder."""
        root, uri = storage.join(self.config.directory, TRIALS_FOLDER), tracking_uri(self.config)
        found = {}
        for cell in self.cells:
            if cell.config is not None and not cell.same_as:
                config = cell.config
                evaluation = dataclasses.replace(config.evaluation, images=config.train.score_images)
                found[cell.name] = dataclasses.replace(
                    config,
                    run=dataclasses.replace(config.run, name=cell.name, root=root),
                    evaluation=evaluation,
                    tracking=dataclasses.replace(config.tracking, uri=uri),
                )
        return found


def run_sweep(sweep: Sweep, console: Console) -> list[TrialResult]:
    """Run what is not finished of a sweep, and write its table and plots.

    The same call continues an interrupted sweep.

    Raises:
        UserError: something that the user can mend is wrong, or trials failed. Finished trials stay.
    """
    with holding(sweep.config.directory, "sweep", "--run.root or --run.name"):
        return _run_held(sweep, console)


def _run_held(sweep: Sweep, console: Console) -> list[TrialResult]:
    config, trials = sweep.config, sweep.trials
    refuse_a_run(config)
    refuse_unlike_scores(list(trials.values()), sweep.prune)
    refuse_other_suite(config.directory, sweep.suite)
    refuse_other_lengths(trials)
    if not sweep.prune:
        unprune(trials.values())
    dataset = open_or_prepare_dataset(config, console)
    require_all(config)
    with cluster.connect(config, EMBEDDED_CPUS):
        for trial in trials.values():
            cluster.divide(trial)
        uri = tracking_uri(config)
        tracker = start_tracker(config.directory, config.run.name, config.tracking.experiment, uri)
        tracker.log_params.remote(flatten(config))
        tracker.log_status.remote("RUNNING")
        # Trials find their parent in its journal.
        answer(tracker.heard.remote(), "answer of the journal's process", config.cluster.stall_seconds)
        with ending(tracker, uri, console):
            console.print("Preparing the real images' statistics and, where it is asked for, the classifier.")
            _prepare_reference(config, dataset, console)
            unfinished = [trial for trial in trials.values() if not is_over(trial.directory)]
            side_by_side = cluster.trials_that_fit(unfinished or list(trials.values())[:1])
            failures = run_trials(sweep, trials, side_by_side, console)
            # The user can look at this table while the finalists are sampled.
            write_table(sweep.suite, config, results_of(sweep.cells, trials, failures, {}))
            finalists = _score_finalists(sweep, trials, console)
            results = results_of(sweep.cells, trials, failures, finalists)
            write_results(sweep.suite, config, results, tracker, console)
            tracker.log_status.remote("FAILED" if failures else "FINISHED")
    if failures:
        first = next(iter(failures))
        raise UserError(
            f"{len(failures)} of {len(trials)} trials failed, {first} with: {failures[first]} The others are "
            "in the table; mend the cause and run the same command again, which continues the failed ones."
        )
    return results


def _prepare_reference(config: ExperimentConfig, dataset: LatentDataset, console: Console) -> None:
    """Prepare statistics of real images, and the classifier, once rather than in every trial."""
    from orchestrator.scoring.evaluate import make_judges

    evaluation = dataclasses.replace(config.evaluation, images=config.train.score_images)
    # Where the trials look for them: with the runs, unless the dataset lies on a disk that can be written.
    run = dataclasses.replace(config.run, root=storage.join(config.directory, TRIALS_FOLDER))
    make_judges(dataclasses.replace(config, evaluation=evaluation, run=run), dataset, console)


def _keep_keys_on_their_nodes() -> None:
    """Keep Tune from passing on S3's keys of this process.

    They would be part of the description of its actors, which stands in Ray's logs. Every node has keys of
    its own, and a job's environment reaches its actors in any case.
    """
    passed_on = class_cache.ENV_VARS_TO_PROPAGATE
    passed_on.difference_update([name for name in passed_on if name.startswith("AWS_")])


def run_trials(
    sweep: Sweep,
    configs: dict[str, ExperimentConfig],
    side_by_side: int,
    console: Console,
    trial: Callable[..., None] = run_trial,
) -> dict[str, str]:
    """Run ``trial`` for each of ``configs``, ``side_by_side`` at a time, and return name -> what failed."""
    _keep_keys_on_their_nodes()
    shared, watch = Trials(configs, sweep.config.directory, side_by_side), TrialWatch(configs)
    console.print(
        f"{len(configs)} trials, {side_by_side} side by side, in {sweep.config.directory}", soft_wrap=True
    )

    so_far = ResultsSoFar(sweep.cells, configs)

    def write_so_far(changed: list[str]) -> None:
        write_table(sweep.suite, sweep.config, so_far.after(changed))

    tuner = tune.Tuner(
        # A trial's driver computes nothing; its workers and actors ask for what they need.
        tune.with_resources(tune.with_parameters(trial, trials=shared), {"CPU": 0.01}),
        param_space={"cell": tune.grid_search(list(configs))},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=side_by_side,
            reuse_actors=False,
            scheduler=scheduler(list(configs.values()), sweep.prune),
        ),
        run_config=tune.RunConfig(
            name=sweep.config.run.name,
            # Tune's own notes are for this call only: the trials' runs continue by themselves.
            storage_path=tempfile.mkdtemp(prefix="dimr-ablation-"),
            failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
            verbose=0,
            callbacks=[Pruned(configs), LiveTable(configs, console, write_so_far), watch],
        ),
    )
    # In a thread, because Tune takes SIGINT for a wish to end well, and returns as if all were done.
    results = run_in_thread(tuner.fit, watch.check)
    _tell_of_pruned(configs, side_by_side)
    failures = {}
    for result in results:
        if result.error is not None and result.config is not None:
            failures[str(result.config["cell"])] = str(result.error).strip().splitlines()[-1]
    return failures


def _tell_of_pruned(configs: dict[str, ExperimentConfig], side_by_side: int) -> None:
    """Say in MLflow which trials were pruned; they were stopped before they could say so themselves.

    Each takes a process, so no more are told of at once than trials ran.
    """
    pruned = [config for config in configs.values() if _is_news(config.directory)]
    for first in range(0, len(pruned), side_by_side):
        some = pruned[first : first + side_by_side]
        trackers = [
            start_tracker(c.directory, c.run.name, c.tracking.experiment, tracking_uri(c)) for c in some
        ]
        for config, tracker in zip(some, trackers, strict=True):
            tracker.log_tags.remote({"pruned": why_pruned(config.directory)})
            tracker.log_status.remote("KILLED")
            close_tracker(tracker)


def _is_news(directory: str) -> bool:
    """Whether a trial was pruned, and its journal does not say so yet."""
    if not storage.is_file(storage.join(directory, PRUNED_FILE)):
        return False
    return not any(
        r["kind"] == "tags" and "pruned" in r["values"] for r in read_records(directory, metric="")
    )


def _score_finalists(
    sweep: Sweep, trials: dict[str, ExperimentConfig], console: Console
) -> dict[str, list[Finalist]]:
    """Sample the best trials again, with ``evaluation.images`` images and several seeds.

    Each time the whole cluster works on one of them.
    """
    finished = [
        name for name in trials if storage.is_file(storage.join(trials[name].directory, METRICS_FILE))
    ]
    best = sorted(finished, key=lambda name: final_distance(trials[name].directory))[: sweep.finalists]
    if best:
        console.print(
            f"The best {len(best)} are sampled again: {sweep.seeds} times {sweep.config.evaluation.images:,} "
            f"images each. The table without them: {sweep.config.directory}/table.md",
            soft_wrap=True,
        )
    seeds = range(sweep.seeds)
    return {name: [_score(sweep, trials[name], seed, console) for seed in seeds] for name in best}


def _score(sweep: Sweep, trial: ExperimentConfig, seed: int, console: Console) -> Finalist:
    from orchestrator.checkpoints.selection import marked
    from orchestrator.scoring.evaluate import Evaluation, evaluate
    from orchestrator.scoring.model_under_test import checkpoint_under_test

    # Other seeds than the trial's own, with which it became a finalist.
    config = dataclasses.replace(
        trial,
        run=dataclasses.replace(trial.run, seed=trial.run.seed + 1 + seed),
        evaluation=dataclasses.replace(trial.evaluation, images=sweep.config.evaluation.images),
    )
    console.print(f"{trial.run.name}: {config.evaluation.images} images with seed {config.run.seed}")
    tested = checkpoint_under_test(marked(trial.directory)[-1], config)
    # The trial's own, which an axis may change.
    dataset = open_or_prepare_dataset(config, console)
    scores = evaluate(Evaluation(config, tested, dataset, console))
    return Finalist(config.run.seed, [m for m in scores.measurements if m.is_of_samples])

"""Journal, MLflow and report of a run: 100 metrics a log, a log every 100 steps, as is the default."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from orchestrator import storage
from orchestrator.benchmarks.scale.growth import Row, Rows
from orchestrator.benchmarks.scale.measuring import bytes_of, seconds_of
from orchestrator.benchmarks.scale.s3 import s3_server, sent_bytes
from orchestrator.config.command_line import parse
from orchestrator.config.plain import to_yaml
from orchestrator.report.page import render
from orchestrator.report.reading import read_run
from orchestrator.tracking.journal import JOURNAL_FILE, FollowedJournal, Journal, RunFiles, read_records
from orchestrator.tracking.mlflow_sync import MLflowSync

LOGS = (100, 1_000, 10_000)
"""The last one is a million steps."""
COPIED_LOGS = (10, 100, 1_000)
METRICS, BATCH = 100, 1024
LOOKS = 10


def measure() -> Iterator[Row]:
    """Measure over the number of logs."""
    with tempfile.TemporaryDirectory() as folder, s3_server() as bucket:
        yield from _journals(Path(folder), bucket)
    with tempfile.TemporaryDirectory() as folder:
        yield from _copies(Path(folder))


def _journals(folder: Path, bucket: str) -> Rows:
    found = Rows(f"logs of {METRICS} metrics")
    for logs in LOGS:
        run = folder / str(logs)
        journal = _write(run, logs)
        _report(run)  # It loads matplotlib, and counts the network's work once.
        found.note("size of the journal, MB", logs, journal.path.stat().st_size / 1e6)
        # One more log at a time, as a run that goes on writes them.
        more = iter(range(logs, logs + 10 * LOOKS))
        found.note("a log is written, ms", logs, 1e3 * seconds_of(lambda: _log(journal, next(more)), LOOKS))  # noqa: B023
        followed = FollowedJournal(str(run), "loss/total")
        followed.read()

        def look(followed: FollowedJournal = followed, journal: Journal = journal) -> float:
            _log(journal, next(more))  # noqa: B023
            return seconds_of(followed.read)

        found.note(
            "a sweep's table looks for one more log, ms", logs, 1e3 * min(look() for _ in range(LOOKS))
        )
        files = RunFiles(f"{bucket}/{logs}", run)
        files.send(JOURNAL_FILE)

        _log(journal, next(more))
        with sent_bytes() as sent:
            files.send(JOURNAL_FILE)
        found.note("kB that S3 is sent for one more log", logs, sent[0] / 1e3)
        found.note("the tracker starts anew, s", logs, seconds_of(partial(Journal, journal.path)))
        found.note("memory for it, MB", logs, bytes_of(partial(Journal, journal.path)) / 1e6)
        found.note("all records are read, s", logs, seconds_of(partial(read_records, str(run))))
        found.note("memory for it, MB (all records)", logs, bytes_of(partial(read_records, str(run))) / 1e6)
        found.note("a report is made, s", logs, seconds_of(partial(_report, run)))
        found.note("memory of the report, MB", logs, bytes_of(partial(_report, run)) / 1e6)
        found.note("size of the report, MB", logs, len(_report(run)) / 1e6)
    return found


def _copies(folder: Path) -> Rows:
    found = Rows(f"logs of {METRICS} metrics, copied to MLflow on SQLite")
    for logs in COPIED_LOGS:
        run = folder / str(logs)
        journal = _write(run, logs)
        sync = _sync(folder, run, f"{logs}")
        found.note("copied anew, s", logs, seconds_of(sync.copy))
        _log(journal, logs)
        found.note("one more log, ms", logs, 1e3 * seconds_of(sync.copy))
        again = _sync(folder, run, f"{logs}-again")
        found.note("memory of copying, MB", logs, bytes_of(again.copy) / 1e6)
    return found


def _sync(folder: Path, run: Path, name: str) -> MLflowSync:
    """A copy to a store of its own, which is made here."""
    import mlflow

    uri = f"sqlite:///{folder}/{name}.db"
    mlflow.MlflowClient(uri).search_experiments()
    return MLflowSync(RunFiles(str(run), run), str(run), "scale", uri)


def _write(run: Path, logs: int) -> Journal:
    """The folder of a run that has logged so often; returns its journal."""
    run.mkdir(parents=True)
    config = parse("Measure.", "quickstart", ["--run.name", run.name, "--run.root", str(run.parent)])
    storage.write_bytes(str(run / "config.yaml"), to_yaml(config).encode())
    journal = Journal(run / JOURNAL_FILE)
    journal.append("run", key=run.name, name=run.name, parent=None)
    for number in range(logs):
        _log(journal, number)
    return journal


def _log(journal: Journal, number: int) -> None:
    names = (
        "loss/total",
        "train/images_per_second",
        "train/images_per_second_per_worker",
        "train/gradient_norm",
    )
    more = (f"loss_by_noise/{place:03d}" for place in range(METRICS - len(names)))
    values = {name: 1.0 + 1.0 / (2 + number + place) for place, name in enumerate((*names, *more))}
    journal.append("metrics", step=(number + 1) * 100 * BATCH, values=values)


def _report(run: Path) -> str:
    return render([read_run(str(run))], [])

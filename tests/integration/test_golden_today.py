"""Files of the first layout (`tests/golden/today`, see its README) are still read and continued."""

import csv
import json
import tarfile
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

from dimr_model import DiMR
from orchestrator.checkpoints.loading import load_ema
from orchestrator.checkpoints.selection import newest_valid
from orchestrator.config.command_line import parse
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import open_dataset
from orchestrator.data.verify import verify
from orchestrator.report.command import report
from orchestrator.report.reading import read_run
from orchestrator.run.experiment import run_experiment
from orchestrator.run.folder import read_metrics
from orchestrator.sweeps.command import ablate
from orchestrator.tracking.journal import read_records

ARCHIVE = Path(__file__).resolve().parents[1] / "golden" / "today" / "files.tar.xz"
MADE_IN = "/data/today"
LENGTH = 2048


@pytest.fixture
def today(tmp_path: Path) -> Path:
    """The files, unpacked; their configs name the folder where they lie now."""
    with tarfile.open(ARCHIVE) as archive:
        # Python 3.11.2, Debian's, knows no filters; the archive is our own.
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    for name in ("tiny.yaml", "suite.yaml", "runs/sweep/suite.json"):
        file = tmp_path / name
        file.write_text(file.read_text().replace(MADE_IN, str(tmp_path)))
    return tmp_path


def config_of(today: Path, name: str) -> ExperimentConfig:
    # In this process: whether workers and actors are processes of their own is free to change.
    here = ["--train.workers", "0", "--sampling.actors", "0"]
    changes = ["--config", str(today / "tiny.yaml"), "--run.name", name, *here]
    return parse("Test.", "quickstart", changes)


def ema_of(directory: str | Path) -> dict[str, torch.Tensor]:
    newest = newest_valid(str(directory))
    assert newest is not None and newest.images_seen == LENGTH
    return dict(load_ema(newest).named_parameters())


def test_the_dataset_is_read_and_whole(today: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = open_dataset(str(today / "dataset"))
    assert (dataset.num_rows, dataset.info.class_names) == (60, ("class0", "class1", "class2"))
    verify(str(today / "dataset"))
    assert "60" in capsys.readouterr().out


def test_exported_weights_are_the_checkpoint_s(today: Path) -> None:
    exported = dict(DiMR.from_pretrained(today / "runs" / "finished" / "export").named_parameters())
    checkpoint = ema_of(today / "runs" / "finished")
    assert exported.keys() == checkpoint.keys()
    assert all(torch.equal(exported[name], tensor) for name, tensor in checkpoint.items())


def test_the_report_tells_of_the_run(today: Path) -> None:
    run = read_run(str(today / "runs" / "finished"))
    assert (run.status, run.images_seen) == ("FINISHED", LENGTH)
    assert len(run.series["loss/total"]) == 16
    report([str(today / "runs" / "finished")], str(today / "report.html"))
    assert "fd12" in json.dumps(run.final) and (today / "report.html").stat().st_size > 10_000


@pytest.mark.long
def test_a_finished_run_is_finished(
    today: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_metrics(str(today / "runs" / "finished"))
    run_experiment(config_of(today, "finished"))
    assert "is finished" in capsys.readouterr().out
    assert read_metrics(str(today / "runs" / "finished")) == before


@pytest.mark.long
def test_an_interrupted_run_goes_on_to_where_the_other_ended(today: Path, ray_session: None) -> None:
    directory = today / "runs" / "interrupted"
    stopped_at = int(next((directory / "checkpoints").iterdir()).name)
    logged = [r["step"] for r in read_records(str(directory)) if r["kind"] == "metrics"]
    assert 0 < stopped_at < LENGTH and max(logged) <= stopped_at
    run_experiment(config_of(today, "interrupted"), console=Console(quiet=True))
    # The processor may be another, whose sums are rounded in another order.
    expected = ema_of(today / "runs" / "finished")
    for name, tensor in ema_of(directory).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=2e-4, msg=name)
    steps = [r["step"] for r in read_records(str(directory)) if "loss/total" in r.get("values", {})]
    assert steps == sorted(set(steps)) and steps[-1] == LENGTH
    distance = "fd12_efficientnet_lite0_ema"
    ours, theirs = (
        read_metrics(str(today / "runs" / name))["metrics"][distance]["value"]
        for name in ("interrupted", "finished")
    )
    assert ours == pytest.approx(theirs, rel=0.02)


@pytest.mark.faults
def test_an_interrupted_sweep_goes_on(today: Path, ray_session: None) -> None:
    trials = today / "runs" / "sweep" / "trials"
    finished = {file: file.read_bytes() for file in trials.glob("*/metrics.json")}
    assert {file.parent.name for file in finished} == {"TD-LN", "TD-RMSNorm"}
    arguments = ["--suite", str(today / "suite.yaml"), "--run.name", "sweep", "--prune", "false"]
    ablate([*arguments, "--finalists", "1", "--seeds", "1", "--train.workers", "0"])
    assert {file: file.read_bytes() for file in finished} == finished
    steps = [r["step"] for r in read_records(str(trials / "none")) if "loss/total" in r.get("values", {})]
    # From its checkpoint at 512, not from the beginning.
    assert steps == sorted(set(steps)) and {128, 512, 640, LENGTH} <= set(steps)
    with (today / "runs" / "sweep" / "table.csv").open() as stream:
        rows = {row["time"]: row for row in csv.DictReader(stream)}
    assert {row["status"] for row in rows.values()} == {"finished"}
    assert sum(bool(row["fd12_mean"]) for row in rows.values()) == 1


def test_the_archive_is_small_and_names_no_machine() -> None:
    assert ARCHIVE.stat().st_size < 1_000_000
    with tarfile.open(ARCHIVE) as archive:
        for member in archive.getmembers():
            if member.name.endswith((".yaml", ".json", ".jsonl", ".md")):
                stream = archive.extractfile(member)
                assert stream is not None
                text = stream.read().decode()
                assert str(Path.home()) not in text
                if member.name.endswith("config.yaml"):
                    assert yaml.safe_load(text)["run"]["root"].startswith(MADE_IN)

"""The commands as a user types them, and what they say when something is wrong."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.data.format import LatentDataset
from orchestrator.storage.lease import holding
from tests.commands import ROOT, Done, job, refused
from tests.datasets import write_moments
from tests.waiting import PATIENCE

Refused = Callable[..., str]


@pytest.fixture
def train_refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    return lambda *arguments: refused(capsys, "train_g.py", *arguments)


@pytest.fixture
def prepare(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    return lambda *arguments: job(capsys, "prepare_latents.py", *arguments)


def test_help_is_readable(capsys: pytest.CaptureFixture[str]) -> None:
    done = job(capsys, "train_g.py", "--help")
    assert done.returncode == 0
    assert "--train.images" in done.stdout
    assert "Presets:" in done.stdout


def test_without_its_dataset_the_default_names_both_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train_refused: Refused
) -> None:
    monkeypatch.chdir(tmp_path)
    message = train_refused()
    assert "jobs/prepare_latents.py" in message
    assert "uv run jobs/train_g.py --config quickstart" in message
    assert list(tmp_path.iterdir()) == []


def test_unknown_preset_and_key(train_refused: Refused) -> None:
    assert "Did you mean quickstart?" in train_refused("--config", "quickstrat")
    message = train_refused("--config", "quickstart", "--train.image", "5")
    assert "Did you mean 'train.images'?" in message


def test_a_mistake_exits_with_2_and_a_paragraph(tmp_path: Path) -> None:
    """In a process of its own: nothing of Python's is between the job and the terminal."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "train_g.py"), "--config", "quickstrat"],
        cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Did you mean quickstart?" in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_dataset_of_another_kind(tmp_path: Path, train_refused: Refused) -> None:
    dataset = write_moments(tmp_path / "moments", 20, 4)
    runs = str(tmp_path / "runs")
    message = train_refused("--config", "quickstart", "--data.path", dataset.path, "--run.root", runs)
    assert "holds moments of shape [2, 4, 4], the model takes [1, 28, 28]" in message


def test_a_run_folder_that_cannot_be_written(
    tmp_path: Path, digits: LatentDataset, train_refused: Refused
) -> None:
    (tmp_path / "file").touch()
    root = str(tmp_path / "file" / "runs")
    message = train_refused("--config", "quickstart", "--run.root", root, "--data.path", digits.path)
    assert "cannot be written" in message and "--run.root" in message


@pytest.mark.parametrize("setting", ["--evaluation.images", "--train.score_images"])
def test_fewer_samples_than_a_score_takes(
    tmp_path: Path, digits: LatentDataset, train_refused: Refused, setting: str
) -> None:
    arguments = ("--run.root", str(tmp_path / "runs"), "--data.path", digits.path)
    message = train_refused("--config", "quickstart", *arguments, setting, "3")
    assert setting.removeprefix("--") in message and "at least 4" in message


def test_a_run_that_another_process_is_working_on(
    tmp_path: Path, digits: LatentDataset, train_refused: Refused
) -> None:
    folder = tmp_path / "runs" / "quickstart"
    with holding(str(folder), "run", "--run.name"):
        before = sorted(path.name for path in folder.iterdir())
        arguments = ("--run.root", str(tmp_path / "runs"), "--data.path", digits.path)
        message = train_refused("--config", "quickstart", *arguments)
        assert f"is being worked on by process {os.getpid()} on" in message and "--run.name" in message
        assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.usefixtures("ray_session")
def test_more_workers_than_cpus(tmp_path: Path, digits: LatentDataset, train_refused: Refused) -> None:
    count = 2 ** (max(4, os.cpu_count() or 1)).bit_length()
    message = train_refused(
        "--config", "quickstart", "--run.root", str(tmp_path / "runs"), "--data.path", digits.path,
        f"--train.workers={count}", f"--data.lanes={count}", f"--train.batch_size={count}",
    )  # fmt: skip
    assert f"{count} training workers" in message and "Lower --train.workers to" in message


def test_a_cluster_that_does_not_answer(
    tmp_path: Path, digits: LatentDataset, monkeypatch: pytest.MonkeyPatch, train_refused: Refused
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # as before a process has connected to one
    message = train_refused(
        "--config", "quickstart", "--run.root", str(tmp_path / "runs"), "--data.path", digits.path,
        "--cluster.address", "127.0.0.1:9",
    )  # fmt: skip
    assert "No Ray cluster answers at 127.0.0.1:9" in message


def test_prepare_makes_the_dataset_once(tmp_path: Path, prepare: Callable[..., Done]) -> None:
    arguments = ("--config", "quickstart", "--data.path", str(tmp_path / "digits"))
    first, second = (prepare(*arguments) for _ in range(2))
    assert "5000 images as pixels [1, 28, 28]" in first.stdout
    assert "already holds a dataset" in second.stdout
    assert first.stdout.split("fingerprint ")[1] == second.stdout.split("fingerprint ")[1]


@pytest.mark.parametrize("content", [None, b"not an idx file"])
def test_idx_files_that_are_missing_or_broken(
    tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    source = ("--data.path", str(tmp_path / "data"), "--data.source_path", str(tmp_path))
    message = refused(capsys, "prepare_latents.py", "--config", "fashion", *source)
    assert ("is not a complete IDX file" if content else "dataset-fashion-mnist") in message

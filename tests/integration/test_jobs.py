"""The commands as a user types them, and what they say when something is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.datasets import write_moments

ROOT = Path(__file__).resolve().parents[2]


def job(name: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jobs" / name), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)


def refused(*arguments: str, cwd: Path = ROOT) -> str:
    done = job("train_g.py", *arguments, cwd=cwd)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def test_help_is_readable() -> None:
    done = job("train_g.py", "--help")
    assert done.returncode == 0
    assert "--train.images" in done.stdout
    assert "Presets:" in done.stdout


def test_without_its_dataset_the_default_names_both_commands(tmp_path: Path) -> None:
    message = refused(cwd=tmp_path)
    assert "jobs/prepare_latents.py" in message
    assert "uv run jobs/train_g.py --config quickstart" in message
    assert list(tmp_path.iterdir()) == []


def test_unknown_preset_and_key() -> None:
    assert "Did you mean quickstart?" in refused("--config", "quickstrat")
    assert "Did you mean 'train.images'?" in refused("--config", "quickstart", "--train.image", "5")


def test_a_dataset_of_another_kind(tmp_path: Path) -> None:
    dataset = write_moments(tmp_path / "moments", 20, 4)
    message = refused(
        "--config", "quickstart", "--data.path", dataset.path, "--run.root", str(tmp_path / "runs")
    )
    assert "holds moments of shape [2, 4, 4], the model takes [1, 28, 28]" in message


def test_a_run_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = refused(
        "--config",
        "quickstart",
        "--run.root",
        str(tmp_path / "file" / "runs"),
        "--data.path",
        str(tmp_path / "digits"),
    )
    assert "cannot be written" in message and "--run.root" in message


def test_more_workers_than_cpus(tmp_path: Path) -> None:
    import os

    count = 2 ** (max(4, os.cpu_count() or 1)).bit_length()
    message = refused(
        "--config", "quickstart", "--run.root", str(tmp_path / "runs"),
        "--data.path", str(tmp_path / "digits"), f"--train.workers={count}",
        f"--data.lanes={count}", f"--train.batch_size={count}",
    )  # fmt: skip
    assert f"{count} training workers" in message and "Lower --train.workers to" in message


def test_a_cluster_that_does_not_answer(tmp_path: Path) -> None:
    message = refused(
        "--config", "quickstart", "--run.root", str(tmp_path / "runs"),
        "--data.path", str(tmp_path / "digits"), "--cluster.address", "127.0.0.1:9",
    )  # fmt: skip
    assert "No Ray cluster answers at 127.0.0.1:9" in message


def test_prepare_makes_the_dataset_once(tmp_path: Path) -> None:
    arguments = ("--config", "quickstart", "--data.path", str(tmp_path / "digits"))
    first, second = (job("prepare_latents.py", *arguments) for _ in range(2))
    assert "5000 images as pixels [1, 28, 28]" in first.stdout
    assert "already holds a dataset" in second.stdout
    assert first.stdout.split("fingerprint ")[1] == second.stdout.split("fingerprint ")[1]


@pytest.mark.parametrize("content", [None, b"not an idx file"])
def test_idx_files_that_are_missing_or_broken(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    done = job(
        "prepare_latents.py",
        "--config",
        "fashion",
        "--data.path",
        str(tmp_path / "data"),
        "--data.source_path",
        str(tmp_path),
    )
    assert done.returncode == 2
    expected = "is not a complete IDX file" if content else "dataset-fashion-mnist"
    assert expected in " ".join(done.stderr.split())

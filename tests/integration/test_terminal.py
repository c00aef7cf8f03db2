"""A run's first and last line in a terminal and in a pipe: nothing between them is anybody else's."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.config.plain import to_yaml
from orchestrator.data.format import LatentDataset
from tests.configs import tiny
from tests.spoken import ROOT, in_terminal, not_ours
from tests.waiting import PATIENCE, wait_until


def arguments(folder: Path, dataset: LatentDataset, **sections: Any) -> list[str]:
    """The arguments of a small run with a worker and actors, whose config is a file, as a user's own is."""
    model = {
        "input_size": 8, "channels": 1, "num_classes": 3, "depths": [1, 1], "widths": [8, 8], "num_heads": 2,
    }  # fmt: skip
    sections = {"model": model, "train": {"workers": 1}, "sampling": {"actors": 1}} | sections
    (folder / "tiny.yaml").write_text(to_yaml(tiny(folder, dataset.path, **sections)))
    return ["jobs/train_g.py", "--config", str(folder / "tiny.yaml")]


def log_of(folder: Path) -> str:
    """What everybody else said."""
    (file,) = (folder / "tiny" / "logs").iterdir()
    return file.read_text()


def training_workers(driver: int) -> list[psutil.Process]:
    """The processes of a run that train."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        with suppress(psutil.Error):  # It has just ended.
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.mark.long
def test_a_terminal_has_our_words_alone(tmp_path: Path, numbered: LatentDataset) -> None:
    code, said = in_terminal(*arguments(tmp_path, numbered))
    assert code == 0, said
    assert not_ours(said) == []
    assert "waiting for the training worker to start" in said
    assert "left in all" in said
    assert f"Logs      {tmp_path}/tiny/logs/" in said
    log = log_of(tmp_path)
    assert "TrainController" in log and "execution of Dataset" in log


@pytest.mark.faults
def test_a_pipe_has_our_words_alone_also_where_workers_are_killed(
    tmp_path: Path, numbered: LatentDataset
) -> None:
    train = {"workers": 2, "images": 10**7, "checkpoint_every_images": 320, "max_restarts": 1}
    run = arguments(tmp_path, numbered, train=train)
    out = tmp_path / "said"
    with out.open("w") as stream:
        job = subprocess.Popen([sys.executable, *run], stdout=stream, stderr=subprocess.STDOUT, cwd=ROOT)
    killed = set[int]()

    def kills_a_worker() -> bool:
        """Kill one of the training workers, when this group of them has written a checkpoint."""
        assert job.poll() is None, out.read_text()
        workers = [process for process in training_workers(job.pid) if process.pid not in killed]
        written = [file.stat().st_mtime for file in (tmp_path / "tiny").glob("checkpoints/*/COMPLETE.json")]
        if not workers or not any(when > workers[0].create_time() for when in written):
            return False
        killed.update(process.pid for process in workers)
        workers[0].kill()
        return True

    try:
        for _ in range(2):
            wait_until(kills_a_worker, "a group of workers writes a checkpoint")
        assert job.wait(PATIENCE) == 2
    finally:
        job.kill()
    said = out.read_text()
    before, _, error = said.partition("Error: ")
    assert not_ours(before) == []
    assert before.count("train: waiting for 2 training workers to start") == 2
    assert "started again from the newest checkpoint (1 of 1 times). A process of training, " in before
    assert "Traceback" not in error
    assert "it was killed, or it crashed.\n  Its last lines:\n    " in error
    assert error.rstrip().rpartition("\n")[2].startswith(f"Logs      {tmp_path}/tiny/logs/")

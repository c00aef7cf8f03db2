"""Evaluation on a real Ray: pools of actors, one killed, the whole job killed, and numbers in MLflow."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
import torch
from rich.console import Console

from dimr_model import DiMR
from orchestrator.config.plain import to_yaml
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.sampling.parts import Parts
from orchestrator.scoring.command import main
from orchestrator.scoring.evaluate import Evaluation, evaluate, plain, sample_images
from orchestrator.scoring.model_under_test import ModelUnderTest, load_model_under_test
from orchestrator.scoring.options import GuidanceSweepOptions
from orchestrator.sweeps.guidance import Setting, distance, refine, run_guidance_sweep
from tests.configs import tiny
from tests.datasets import write_numbered
from tests.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("ray_session")
ROOT = Path(__file__).resolve().parents[2]
SILENT = Console(quiet=True)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> LatentDataset:
    return write_numbered(tmp_path_factory.mktemp("data") / "numbered", 60, 10)


def config(root: Path, dataset: LatentDataset, **sampling: Any) -> ExperimentConfig:
    settings: dict[str, Any] = {"sampler": {"steps": 100}, "batch_size": 4, "use_gpu": False, **sampling}
    return tiny(
        root, dataset.path, sampling=settings, evaluation={"images": 60, "extractors": ["efficientnet_lite0"]}
    )


def subject_of(config: ExperimentConfig, folder: Path) -> ModelUnderTest:
    torch.manual_seed(0)
    DiMR(config.model).save_pretrained(folder / "exported")
    return load_model_under_test(str(folder / "exported"), config)


def images_in(folder: str) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(Path(folder, "images").glob("*.parquet"))}


def kill_a_sampler_when(parts: Parts, killed: list[int]) -> None:
    """Send SIGKILL to a sampling actor once some ranges are finished and some are not."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and not killed:
        if 1 <= len(parts.finished()) <= 8:
            for process in psutil.process_iter(["cmdline"]):
                if "_SampleActor" in " ".join(process.info["cmdline"] or []) and not killed:
                    process.send_signal(signal.SIGKILL)
                    killed.append(process.pid)
        time.sleep(0.02)  # between two looks at a folder


@pytest.mark.long
def test_images_do_not_depend_on_the_actors_that_sample_them_or_on_their_deaths(
    tmp_path: Path, dataset: LatentDataset
) -> None:
    alone = config(tmp_path / "alone", dataset, actors=1)
    many = config(tmp_path / "many", dataset, actors=3)
    tested = subject_of(alone, tmp_path)
    found = []
    for one in (alone, many):
        one = dataclasses.replace(one, evaluation=dataclasses.replace(one.evaluation, save=("parquet",)))
        job = Evaluation(one, tested, dataset, SILENT)
        killed: list[int] = []
        if one.sampling.actors == 3:
            folder = found[0].folder.replace(alone.directory, one.directory)
            killer = threading.Thread(target=kill_a_sampler_when, args=(Parts(f"{folder}/features"), killed))
            killer.start()
        found.append(sample_images(job, judges={}))
    killer.join()
    assert len(killed) == 1
    first, second = (images_in(samples.folder) for samples in found)
    assert len(first) == 15
    assert first == second


def test_another_batch_size_changes_no_image_by_more_than_a_grey_level(
    tmp_path: Path, dataset: LatentDataset
) -> None:
    from orchestrator.sampling.sampler import ImageSampler

    small, large = config(tmp_path, dataset), config(tmp_path, dataset, batch_size=7)
    tested = subject_of(small, tmp_path)
    indices = list(range(14))
    parts = [ImageSampler(small, tested.model, None).sample(indices[i : i + 4])[0] for i in range(0, 14, 4)]
    whole, _ = ImageSampler(large, tested.model, None).sample(indices)
    assert (torch.cat(parts).int() - whole.int()).abs().max() <= 1


def test_actors_measure_what_one_process_does(tmp_path: Path, dataset: LatentDataset) -> None:
    here = config(tmp_path / "here", dataset, sampler={"steps": 2}, actors=0)
    pooled = config(tmp_path / "pooled", dataset, sampler={"steps": 2}, actors=1)
    tested = subject_of(here, tmp_path)
    one = evaluate(Evaluation(here, tested, dataset, SILENT))
    two = evaluate(Evaluation(pooled, tested, dataset, SILENT))
    for ours, theirs in zip(one.measurements, two.measurements, strict=True):
        assert ours.value == pytest.approx(theirs.value, rel=1e-5), ours.name


class TestCommand:
    """``jobs/evaluate.py`` as a user starts it, with a Ray of its own."""

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        return subprocess.Popen(
            [sys.executable, "jobs/evaluate.py", *arguments],
            cwd=ROOT,
            env={**environment, "COLUMNS": "200"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    @pytest.mark.faults
    def test_a_killed_job_goes_on_and_its_numbers_land_below_their_run(
        self, tmp_path: Path, dataset: LatentDataset
    ) -> None:
        settings = config(tmp_path, dataset)
        torch.manual_seed(0)
        DiMR(settings.model).save_pretrained(tmp_path / "exported")
        (tmp_path / "config.yaml").write_text(to_yaml(settings))
        arguments = ["--config", str(tmp_path / "config.yaml"), "--checkpoint", str(tmp_path / "exported")]
        folder = Path(settings.directory) / "evaluations"

        def finished() -> dict[Path, int]:
            return {file: file.stat().st_mtime_ns for file in folder.glob("*/features/0*.safetensors")}

        process = self.start(*arguments)
        deadline = time.monotonic() + PATIENCE
        while len(finished()) < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)  # between two looks at a folder
        process.send_signal(signal.SIGKILL)
        printed = process.communicate(timeout=PATIENCE)[0]
        before = finished()
        assert 2 <= len(before) < 15, printed

        again = self.start(*arguments)
        printed = again.communicate(timeout=PATIENCE)[0]
        assert again.returncode == 0, printed
        after = finished()
        assert len(after) == 15
        assert {file: after[file] for file in before} == before
        assert "fd60_efficientnet_lite0_ema" in printed
        assert "60 samples, exported weights" in printed
        assert "singular" in printed
        (metrics,) = folder.glob("*/60-*/metrics.json")
        stored = json.loads(metrics.read_text())
        client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
        (run,) = client.search_runs(["1"])
        assert run.info.status == "FINISHED"
        for name, entry in stored["metrics"].items():
            assert run.data.metrics[f"eval/{name}"] == pytest.approx(entry["value"])
            assert json.loads(run.data.tags[f"protocol.{name}"]) == entry["protocol"]
        assert run.data.params["sampling.sampler.steps"] == "100"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Say what to evaluate"),
        (("--checkpoint", "{empty}"), "No config.yaml lies with"),
        (("--checkpoint", "{empty}", "--config", "quickstart"), "There are no weights at"),
        (
            ("--checkpoint={empty}", "--config=quickstart", "--sampling.sampler.step=3"),
            "sampling.sampler.steps",
        ),
        (("reference", "--config", "quickstart", "--out", "statistics"), "must end in .npz"),
    ],
)
def test_a_wrong_command_says_what_to_do(
    arguments: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [argument.format(empty=tmp_path) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *given])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.faults
def test_a_sweep_refines_around_its_best_setting(
    tmp_path: Path, dataset: LatentDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(tmp_path, dataset, sampler={"steps": 2})
    settings = dataclasses.replace(settings, evaluation=dataclasses.replace(settings.evaluation, images=16))
    subject_of(settings, tmp_path)
    options = GuidanceSweepOptions(checkpoint=str(tmp_path / "exported"), scales=(1, 2, 3), quick_images=8)
    found = run_guidance_sweep(settings, dataset, options, Console())
    quick = [outcome for outcome in found if outcome.images == 8]
    assert [outcome.setting.scale for outcome in quick] == [1, 2, 3]
    best = min(quick, key=distance)
    refined = [outcome.setting for outcome in found if outcome.images == 16]
    assert refined == refine(best.setting, [outcome.setting for outcome in quick])
    assert best.setting in refined
    assert "Smallest distance with 16 samples: --sampling.guidance.scale" in capsys.readouterr().out
    (folder,) = (Path(settings.directory) / "sweeps").iterdir()
    assert (folder / "guidance.png").stat().st_size > 10_000
    assert len((folder / "table.csv").read_text().splitlines()) == 1 + len(found)
    # A point of the sweep is the evaluation of that setting, and nothing else.
    (run,) = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["1"])
    assert run.data.metrics["guidance_0-1000_n8/fd_efficientnet_lite0_ema"] == distance(quick[-1])


def test_refining_goes_halfway_to_the_neighbours() -> None:
    whole = (0.0, 1000.0)
    tried = [Setting(scale, whole) for scale in (1.0, 2.0, 4.0)] + [Setting(3.0, (100.0, 500.0))]
    assert [s.scale for s in refine(Setting(2.0, whole), tried)] == [1.5, 2.0, 3.0]
    assert [s.scale for s in refine(Setting(1.0, whole), tried)] == [1.0, 1.5]
    assert plain([]) == {}

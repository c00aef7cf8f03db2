"""Training on a GPU: the CPU's losses, resume, compilation with held-out rows, Ray, several GPUs."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from orchestrator.checkpoints.loading import load_ema
from orchestrator.checkpoints.selection import newest_valid
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.training.entry import train
from orchestrator.training.hooks import Hooks
from orchestrator.training.shards import TrainJob
from orchestrator.training.worker import run_process
from tests.configs import tiny
from tests.datasets import write_numbered
from tests.gpu import DEVICE, ON_GPU, marks, only_on_gpu
from tests.processes import in_processes

pytestmark = marks
SIZE = 8
MODEL = {"input_size": SIZE, "depths": [3, 3, 1], "widths": [64, 32, 16]}
MODERN = {"process": "flow", "prediction": "velocity", "time": "logit_normal"}


@dataclasses.dataclass(frozen=True)
class Noted:
    """Makes hooks that add every metric to a file, from whichever process."""

    file: str

    def __call__(self) -> Hooks:
        return Hooks(on_metrics=self._note, on_checkpoint=lambda checkpoint: None)

    def _note(self, metrics: dict[str, float], images_seen: int) -> None:
        with open(self.file, "a") as stream:
            stream.write(json.dumps({"images": images_seen} | metrics) + "\n")


def config_of(root: Path, dataset: LatentDataset, use_gpu: bool = ON_GPU, **train: Any) -> ExperimentConfig:
    return tiny(root, dataset.path, model=MODEL, train={"use_gpu": use_gpu, **train})


def losses(file: Path, key: str = "loss/total") -> dict[int, float]:
    """The metric by images seen."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return {line["images"]: line[key] for line in lines if key in line}


def ema(config: ExperimentConfig) -> dict[str, torch.Tensor]:
    checkpoint = newest_valid(config.directory)
    assert checkpoint is not None and checkpoint.images_seen == config.train.images
    return {name: p.detach() for name, p in load_ema(checkpoint).named_parameters()}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], within: float) -> None:
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=within, atol=within, msg=name)


def run(config: ExperimentConfig, dataset: LatentDataset, **more: Any) -> Path:
    file = Path(f"{config.run.root}.jsonl")
    run_process(TrainJob(config, dataset, Noted(str(file)), **more))
    return file


def test_a_gpu_trains_what_the_cpu_does(tmp_path: Path) -> None:
    dataset = write_numbered(tmp_path / "data", 64, 8, SIZE)
    there, here = (tmp_path / name for name in ("there", "here"))
    on_gpu, on_cpu = config_of(there, dataset), config_of(here, dataset, use_gpu=False)
    found, expected = losses(run(on_gpu, dataset)), losses(run(on_cpu, dataset))
    assert sorted(found) == [16, 32, 48, 64]
    assert found == pytest.approx(expected, rel=1e-4)
    # AdamW divides by the gradient's own size, so rounding in a sum shows at the size of the learning rate.
    assert_close(ema(on_gpu), ema(on_cpu), 1e-3)


def test_a_gpu_trains_a_flow_with_muon_as_the_cpu_does(tmp_path: Path) -> None:
    dataset = write_numbered(tmp_path / "data", 64, 8, SIZE)
    there, here = (
        tiny(
            tmp_path / name, dataset.path, model=MODEL | {"qk_norm": True}, diffusion=MODERN,
            train={"use_gpu": use_gpu, "optimizer": "muon"},
        )
        for name, use_gpu in (("there", ON_GPU), ("here", False))
    )  # fmt: skip
    # Muon computes in bf16, which the two round at other places.
    assert losses(run(there, dataset)) == pytest.approx(losses(run(here, dataset)), rel=5e-3)


def test_a_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    dataset = write_numbered(tmp_path / "data", 64, 8, SIZE)
    whole = config_of(tmp_path / "whole", dataset, precision="bf16")
    run(whole, dataset)
    run(config_of(tmp_path / "parts", dataset, precision="bf16", images=32), dataset)
    parts = config_of(tmp_path / "parts", dataset, precision="bf16")
    run(parts, dataset)
    assert_close(ema(parts), ema(whole), 1e-4)


def test_compiled_training_takes_held_out_rows_of_any_number(tmp_path: Path) -> None:
    """Each new size would be compiled anew, until torch gives up."""
    dataset, held_out = (
        write_numbered(tmp_path / name, count, 8, SIZE) for name, count in (("data", 64), ("rest", 19))
    )
    eager, compiled = (config_of(tmp_path / f"{is_on}", dataset, compile=is_on) for is_on in (False, True))
    expected = losses(run(eager, dataset, held_out=held_out), "held_out/loss/total")
    found = losses(run(compiled, dataset, held_out=held_out), "held_out/loss/total")
    assert sorted(found) == [32, 64]
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.usefixtures("ray_with_gpus")
def test_a_ray_worker_trains_what_a_process_does(tmp_path: Path) -> None:
    dataset = write_numbered(tmp_path / "data", 64, 8, SIZE)
    alone = config_of(tmp_path / "alone", dataset)
    expected = losses(run(alone, dataset))
    through_ray = config_of(tmp_path / "ray", dataset, workers=1)
    file = tmp_path / "ray.jsonl"
    train(TrainJob(through_ray, dataset, Noted(str(file))), data_cpus=1)
    assert losses(file) == pytest.approx(expected, rel=1e-4)
    if ON_GPU:
        assert all(value > 0 for value in losses(file, "train/gpu_memory_gigabytes").values())


@only_on_gpu
def test_a_step_makes_the_host_wait_once(tmp_path: Path) -> None:
    """For the gradient's norm, which decides whether the step counts."""
    from dimr_model.diffusion import NoiseSchedule
    from orchestrator.training.parallelize import make_mesh
    from orchestrator.training.process_group import of_this_process
    from orchestrator.training.state import fresh_state
    from orchestrator.training.step import Draws, train_step
    from orchestrator.training.timing import Stopwatch

    config = config_of(tmp_path, write_numbered(tmp_path / "data", 64, 8, SIZE), precision="bf16")
    with of_this_process(DEVICE):
        state = fresh_state(config, make_mesh(config.train, "cuda", 1, 1), DEVICE)
        draws = Draws(
            torch.randn(8, 1, SIZE, SIZE),
            torch.randn(8, 1, SIZE, SIZE),
            torch.arange(1, 9),
            torch.arange(8) % 3,
        )

        schedule = NoiseSchedule("cosine")

        def step() -> None:
            train_step(config, state, draws, schedule, Stopwatch(DEVICE))

        step()
        step()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with pytest.warns(UserWarning, match="synchroniz") as waits:
                step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len([wait for wait in waits if "synchroniz" in str(wait.message)]) == 1


def _train_on_both(config: ExperimentConfig, dataset: LatentDataset, file: str) -> None:
    dist.destroy_process_group()  # run_process makes one with NCCL.
    run_process(TrainJob(config, dataset, Noted(file)))
    other = 1 - int(os.environ["RANK"])
    # A context takes hundreds of megabytes; NVML tells of it without opening one.
    assert str(os.getpid()) not in torch.cuda.list_gpu_processes(other)
    dist.init_process_group("gloo")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two GPUs")
@pytest.mark.parametrize("sharding", ["shard", "replicate"])
def test_two_gpus_train_what_one_does(sharding: str, tmp_path: Path) -> None:
    dataset = write_numbered(tmp_path / "data", 64, 8, SIZE)
    expected = losses(run(config_of(tmp_path / "one", dataset), dataset))
    both = config_of(tmp_path / "two", dataset, workers=2, sharding=sharding)
    in_processes(_train_on_both, 2, both, dataset, str(tmp_path / "two.jsonl"))
    assert losses(tmp_path / "two.jsonl") == pytest.approx(expected, rel=1e-4)

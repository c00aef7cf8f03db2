"""What Ray Train is asked for."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train.torch

from orchestrator.training.entry import train
from orchestrator.training.shards import TrainJob
from tests.configs import no_hooks, tiny
from tests.datasets import write_numbered


@pytest.mark.parametrize(("use_gpu", "backend"), [(False, "gloo"), (True, "cpu:gloo,cuda:nccl")])
def test_groups_of_gpus_can_also_send_what_is_on_the_cpu(
    use_gpu: bool, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def trainer(function: Any, **settings: Any) -> SimpleNamespace:
        asked.update(settings)
        return SimpleNamespace(fit=lambda: SimpleNamespace(return_value=None))

    monkeypatch.setattr(ray.train.torch, "TorchTrainer", trainer)
    dataset = write_numbered(tmp_path / "data", 64, 8)
    config = tiny(tmp_path, dataset.path, train={"workers": 2, "use_gpu": use_gpu})
    train(TrainJob(config, dataset, no_hooks), data_cpus=1)
    assert asked["torch_config"].backend == backend
    assert (asked["scaling_config"].num_workers, asked["scaling_config"].use_gpu) == (2, use_gpu)

"""What a process asks of GPUs, on machines that have none: only its own, and known by its whole name."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from orchestrator.training import hardware
from orchestrator.training.gpus import GPUS
from orchestrator.training.hardware import node_usage, peak_flops

GPU_3 = torch.device("cuda", 3)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA A100-SXM4-80GB", "A100"), ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"), ("Tesla V100-SXM2-16GB", "V100"), ("NVIDIA L40", None), ("NVIDIA L20", None),
        ("NVIDIA GH200 480GB", None),
    ],
)  # fmt: skip
def test_a_gpu_is_known_by_its_whole_name(
    monkeypatch: pytest.MonkeyPatch, name: str, known: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(hardware, "matmul_peak", lambda device, precision: 0.0)
    for precision in ("fp32", "bf16"):
        expected = 0.0 if known is None else getattr(GPUS[known], f"{precision}_flops")
        assert peak_flops(GPU_3, precision) == expected  # type: ignore[arg-type]


def test_no_context_is_opened_on_the_gpus_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: asked.append(device) or (20, 80))
    usage = node_usage(GPU_3)
    assert asked == [GPU_3]
    assert {name: value for name, value in usage.items() if name.startswith("gpu_")} == {
        "gpu_3_memory_usage_percentage": 75.0
    }


def test_all_ranks_tell_of_their_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.training import interval

    told = [("a", {"gpu_0": 1.0}, 5), ("a", {"gpu_1": 2.0}, 7), ("b", {"gpu_0": 3.0}, 6)]

    def gather(found: list[Any], mine: Any) -> None:
        found[:] = told

    monkeypatch.setattr(interval, "dist", SimpleNamespace(get_world_size=lambda: 3, all_gather_object=gather))
    assert interval._usage_of_nodes(torch.device("cpu")) == {
        "system/node0/gpu_0": 1.0, "system/node0/gpu_1": 2.0, "system/node1/gpu_0": 3.0,
        "train/gpu_memory_gigabytes": 7e-9,
    }  # fmt: skip

"""Float32 is float32 wherever a process computes, whatever it did before."""

from collections.abc import Iterator

import pytest
import torch

from orchestrator.precision import compute_device


@pytest.fixture
def tf32() -> Iterator[None]:
    flags = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = flags


@pytest.mark.usefixtures("tf32")
def test_whoever_takes_a_device_refuses_tf32() -> None:
    assert compute_device(use_gpu=False) == torch.device("cpu")
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32

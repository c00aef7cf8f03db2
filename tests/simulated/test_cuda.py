"""The simulation itself: it refuses what a GPU would refuse, and notes what a GPU would be waited for."""

import subprocess
import sys

import pytest

from tests.commands import ROOT

CHECKS = """
import torch
from tests.simulated.cuda import SimulatedGPU, pretend
pretend()
with SimulatedGPU() as gpu:
    there, here = torch.arange(6.0, device="cuda"), torch.arange(6.0)
    for mix in (lambda: there + here, lambda: here[there.long()], lambda: torch.cat([there, here])):
        try:
            mix()
        except RuntimeError as error:
            assert "GPU" in str(error) or "on the CPU" in str(error), error
        else:
            raise AssertionError("mixed devices were let through")
    assert not gpu.events
    assert (there * here[2]).cpu().tolist() == [0, 2, 4, 6, 8, 10]
    assert float(there.sum()) == 15 and there[there > 3].cpu().tolist() == [4, 5]
    there.add_(1)
    assert there.view(2, 3).t().contiguous().cpu()[0].tolist() == [1, 4]
    names = sorted(name.partition(" (")[0] for name in gpu.events)
    assert names == ["from the GPU, waiting", "the host reads _local_scalar_dense", "the host reads index"]
print("held")
"""


@pytest.mark.long
def test_mixed_devices_are_refused_and_waits_are_noted() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHECKS], cwd=ROOT, text=True, capture_output=True, check=False
    )
    assert done.stdout.strip() == "held", done.stderr

"""Tests that need a GPU: ``uv run pytest -m gpu -n 0``. Without one they are skipped.

``TRY_ON_CPU=1`` runs them on the CPU, to try the tests themselves; those that compare a GPU with the CPU
compare the CPU with itself then.
"""

import os

import pytest
import torch

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
marks = [
    pytest.mark.gpu,
    pytest.mark.skipif(not ON_GPU and not os.environ.get("TRY_ON_CPU"), reason="torch sees no GPU"),
]
only_on_gpu = pytest.mark.skipif(not ON_GPU, reason="torch sees no GPU")

"""A network that was sent to an actor is the one that was sent."""

from typing import Any

import numpy as np
import pytest
import ray
import torch

from dimr_model import DiMR, DiMRConfig
from orchestrator.sampling.sent_model import SentModel


@pytest.mark.parametrize("time_conditioning", ["td_rmsnorm", "adaln_zero"])
def test_its_weights_are_sent_as_arrays_and_are_the_same(
    monkeypatch: pytest.MonkeyPatch, time_conditioning: Any
) -> None:
    store: list[Any] = []

    def put(value: Any) -> int:
        # As Ray's object store gives them back: nobody may write into them.
        assert all(isinstance(array, np.ndarray) for array in value.values())
        store.append({name: array.copy() for name, array in value.items()})
        for array in store[-1].values():
            array.flags.writeable = False
        return len(store) - 1

    monkeypatch.setattr(ray, "put", put)
    monkeypatch.setattr(ray, "get", lambda reference: store[reference])
    torch.manual_seed(0)
    config = DiMRConfig(
        input_size=8, channels=1, num_classes=3, depths=(3, 1), widths=(16, 8), num_heads=2,
        time_conditioning=time_conditioning,
    )  # fmt: skip
    model = DiMR(config).eval()
    loaded = SentModel.of(model).load()
    noisy, level, labels = torch.randn(2, 1, 8, 8), torch.tensor([-1.0, 2.0]), torch.tensor([0, 3])
    assert not loaded.training
    with torch.no_grad():
        pairs = zip(loaded(noisy, level, labels), model(noisy, level, labels), strict=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in pairs)

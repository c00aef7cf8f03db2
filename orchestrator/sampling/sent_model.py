"""A network on its way to actors: its weights lie in Ray's object store, once on every node."""

import warnings
from dataclasses import dataclass
from typing import Any

import ray
import torch

from dimr_model import DiMR, DiMRConfig


@dataclass(frozen=True)
class SentModel:
    """What an actor needs to have the network."""

    architecture: DiMRConfig
    weights: tuple[Any, ...]
    """Ray's reference to the arrays by name. In a tuple it arrives as such."""

    @staticmethod
    def of(model: DiMR) -> "SentModel":
        """Put a network on the CPU into the object store.

        As arrays its weights are copied there once. Pickled with the network they would be copied twice, and
        once more in every actor.
        """
        arrays = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
        return SentModel(model.architecture, (ray.put(arrays),))

    def load(self) -> DiMR:
        """The network in eval mode. On the CPU its weights are those in the object store: read only."""
        arrays = ray.get(self.weights[0])
        with torch.device("meta"):
            model = DiMR(self.architecture)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        model.load_state_dict(tensors, assign=True)
        return model.eval()

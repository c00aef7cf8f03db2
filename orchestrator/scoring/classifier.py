"""Classifiers that tell whether a sample shows the class asked for; one is trained on the dataset itself."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimr_model import randomness
from orchestrator import storage
from orchestrator.errors import UserError
from orchestrator.images import to_rgb

LAYER = "features"
DIMENSIONS = 128
MOST_EPOCHS = 12
MOST_IMAGES_SEEN = 240_000
"""A dataset of which 12 epochs are more has fewer of them, and one at least."""
BATCH_SIZE = 50
LEARNING_RATE = 2e-3
MAX_SHIFT = 2
MAX_SIDE = 64
"""Larger images are shrunken to this. It is enough to tell classes apart, and training takes minutes."""
ASKED_AT_ONCE = 1000


Classify = Callable[[Tensor], Tensor]
"""uint8 images ``[B, C, H, W]`` on the CPU -> probabilities ``[B, num_classes]`` there."""


class Classifier(Protocol):
    """A classifier that travels to the actors, and is loaded there."""

    def load(self, use_gpu: bool) -> Classify:
        """Get ready to be asked, on this process's GPU if ``use_gpu`` and it has one."""


class SmallClassifier(nn.Module):
    """Three convolutions and a linear layer: ``[B, C, H, W]`` in [-1, 1] -> logits ``[B, num_classes]``."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width_out in ((channels, 32), (32, 64), (64, DIMENSIONS)):
            layers += [
                nn.Conv2d(width_in, width_out, 3, padding=1),
                nn.BatchNorm2d(width_out),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(DIMENSIONS, num_classes)
        # CPUs train it in two thirds of the time.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """``[B, C, H, W]`` in [-1, 1] -> logits ``[B, num_classes]``."""
        return self.head(self.pooled(images))

    def pooled(self, images: Tensor) -> Tensor:
        """``[B, C, H, W]`` in [-1, 1] -> what the linear layer takes: means of channels ``[B, 128]``."""
        return self.features(images).mean(dim=(2, 3))

    def load(self, use_gpu: bool) -> Classify:
        """Give its own method: the network is too small for a GPU to matter."""
        return self.probabilities

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """uint8 ``[B, C, H, W]`` -> probabilities ``[B, num_classes]``."""
        return self(to_unit_range(shrink(images))).softmax(dim=1)


@dataclass(frozen=True)
class TrainedClassifier:
    """A small classifier and how often it is right on images it has not seen."""

    network: SmallClassifier
    held_out_accuracy: float
    trained_on: int
    held_out: int
    sha256: str
    """Hash of its file."""

    @property
    def about(self) -> dict[str, Any]:
        """What is to be known of it: part of the protocol of what it says."""
        return {
            "name": f"small convolutional network trained on {self.trained_on} images of the dataset",
            "sha256": self.sha256,
        }


def classifier_content(
    network: SmallClassifier, *, right: int, held_out: int, trained_on: int, channels: int
) -> bytes:
    """The content of a classifier's file.

    Args:
        right: how many of the ``held_out`` images it puts into their class.
    """
    facts = {"right": right, "held_out": held_out, "trained_on": trained_on, "channels": channels}
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    return safetensors.torch.save(tensors | {name: torch.tensor(fact) for name, fact in facts.items()})


def read_classifier(file: str) -> TrainedClassifier:
    """The classifier in a file with the content of :func:`classifier_content`.

    Raises:
        UserError: it holds something else.
    """
    try:
        stored = safetensors.torch.load(storage.read_bytes(file))
        right, held_out, trained_on, channels = (
            int(stored.pop(name)) for name in ("right", "held_out", "trained_on", "channels")
        )
        network = SmallClassifier(channels, len(stored["head.bias"]))
        network.load_state_dict(stored)
    except (OSError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{file} cannot be read as a dataset's classifier ({type(error).__name__}). Name another with "
            "--evaluation.dataset_classifier_weights, or leave that out: one is trained on data.path."
        ) from error
    return TrainedClassifier(network.eval(), right / held_out, trained_on, held_out, storage.sha256_of(file))


class ClassifierFeatures:
    """The extractor: what a dataset's classifier has seen before it decides. It is too small for a GPU."""

    def __init__(self, network: SmallClassifier) -> None:
        self._network = network
        self._channels = network.features[0].in_channels

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """uint8 ``[B, C, H, W]`` -> ``features [B, 128]`` float32."""
        pixels = to_unit_range(shrink(images))
        if self._channels == 1:
            pixels = pixels.mean(dim=1, keepdim=True)  # Grey images come with three channels from a folder.
        elif self._channels == 3:
            pixels = to_rgb(pixels)
        return {"features": self._network.pooled(pixels)}


def shrink(images: Tensor) -> Tensor:
    """uint8 images ``[B, C, H, W]`` at ``MAX_SIDE`` at most: each pixel the mean of those that it covers."""
    if max(images.shape[2:]) <= MAX_SIDE:
        return images
    return F.interpolate(images.float(), (MAX_SIDE, MAX_SIDE), mode="area").round().byte()


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 images -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def train_classifier(
    images: npt.NDArray[np.uint8], labels: Tensor, rows: npt.NDArray[Any], num_classes: int, seed: int
) -> SmallClassifier:
    """Train on the ``rows`` of ``images [N, C, H, W]`` with ``labels [N]``, each shifted by up to two pixels.

    Only a batch of the images is in memory, so they may lie in a file. The result depends on the arguments
    and torch's version alone; the global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SmallClassifier(images.shape[1], num_classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    epochs = min(MOST_EPOCHS, max(1, MOST_IMAGES_SEEN // len(rows)))
    batches = (len(rows) + BATCH_SIZE - 1) // BATCH_SIZE
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=epochs * batches)
    model.train()
    for epoch in range(epochs):
        random = randomness.generator(seed, "classifier-epoch", epoch)
        order = rows[random.permutation(len(rows))]
        for batch in np.split(order, range(BATCH_SIZE, len(order), BATCH_SIZE)):
            down, right = (int(shift) for shift in random.integers(-MAX_SHIFT, MAX_SHIFT + 1, size=2))
            pixels = to_unit_range(torch.from_numpy(images[batch]))
            shifted = torch.roll(pixels, (down, right), dims=(2, 3))
            F.cross_entropy(model(shifted), labels[batch]).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    return model.eval()


def class_agreement(
    model: SmallClassifier, images: npt.NDArray[np.uint8], labels: Tensor, rows: npt.NDArray[Any]
) -> int:
    """How many of the ``rows`` of ``images [N, C, H, W]`` the classifier puts into ``labels [N]``."""
    return sum(
        int((model.probabilities(torch.from_numpy(images[few])).argmax(dim=1) == labels[few]).sum())
        for few in np.split(rows, range(ASKED_AT_ONCE, len(rows), ASKED_AT_ONCE))
    )

"""Classifiers that tell whether a sample shows the class asked for; one is trained on the dataset itself."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimr_model import randomness

EPOCHS = 12
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
        for width_in, width_out in ((channels, 32), (32, 64), (64, 128)):
            layers += [
                nn.Conv2d(width_in, width_out, 3, padding=1),
                nn.BatchNorm2d(width_out),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(128, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """``[B, C, H, W]`` in [-1, 1] -> logits ``[B, num_classes]``."""
        return self.head(self.features(images).mean(dim=(2, 3)))

    def load(self, use_gpu: bool) -> Classify:
        """Give its own method: the network is too small for a GPU to matter."""
        return self.probabilities

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """uint8 ``[B, C, H, W]`` -> probabilities ``[B, num_classes]``."""
        return self(to_unit_range(shrink(images))).softmax(dim=1)


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
    batches = (len(rows) + BATCH_SIZE - 1) // BATCH_SIZE
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=EPOCHS * batches)
    model.train()
    for epoch in range(EPOCHS):
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

"""Classifiers that tell whether a sample shows the class asked for; one is trained on the dataset itself."""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimr_model import randomness

EPOCHS = 12
BATCH_SIZE = 50
LEARNING_RATE = 2e-3
MAX_SHIFT = 2


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
        return self(to_unit_range(images)).softmax(dim=1)


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 images -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def train_classifier(images: Tensor, labels: Tensor, num_classes: int, seed: int) -> SmallClassifier:
    """Train on ``images [N, C, H, W]`` uint8 with ``labels [N]``, shifting each image by up to two pixels.

    The result depends on the arguments and torch's version alone; the global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SmallClassifier(images.shape[1], num_classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    batches = (len(images) + BATCH_SIZE - 1) // BATCH_SIZE
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=EPOCHS * batches)
    pixels = to_unit_range(images)
    model.train()
    for epoch in range(EPOCHS):
        random = randomness.generator(seed, "classifier-epoch", epoch)
        for rows in torch.from_numpy(random.permutation(len(images))).split(BATCH_SIZE):
            down, right = (int(shift) for shift in random.integers(-MAX_SHIFT, MAX_SHIFT + 1, size=2))
            shifted = torch.roll(pixels[rows], (down, right), dims=(2, 3))
            F.cross_entropy(model(shifted), labels[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    return model.eval()


def class_agreement(model: SmallClassifier, images: Tensor, labels: Tensor) -> int:
    """How many of ``images [B, C, H, W]`` uint8 the classifier puts into ``labels [B]``."""
    return int((model.probabilities(images).argmax(dim=1) == labels).sum())

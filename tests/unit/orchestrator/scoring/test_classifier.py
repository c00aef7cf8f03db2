"""The dataset's classifier: it learns, a batch of images at a time, and large images are made small first."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.scoring import classifier
from orchestrator.scoring.classifier import BATCH_SIZE, MAX_SIDE, class_agreement, shrink, train_classifier

SIDE = 16


def bars(count: int) -> tuple[Any, torch.Tensor]:
    """Images with an upright bar (0) or a lying one (1)."""
    random = np.random.default_rng(0)
    labels = torch.from_numpy(random.integers(0, 2, count))
    images = random.integers(0, 64, (count, 1, SIDE, SIDE)).astype(np.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        if label:
            image[:, 7:9] = 255
        else:
            image[:, :, 7:9] = 255
    return images, labels


class Watched:
    """An array that notes how many images are taken out of it at a time."""

    def __init__(self, images: Any) -> None:
        self.images, self.shape = images, images.shape
        self.most = self.taken = 0

    def __getitem__(self, rows: Any) -> Any:
        self.most = max(self.most, len(rows))
        self.taken += len(rows)
        return self.images[rows]


def test_it_learns_from_a_file_as_from_memory_and_takes_a_batch_at_a_time(tmp_path: Path) -> None:
    images, labels = bars(400)
    rows, others = np.arange(0, 400, 2), np.arange(1, 400, 2)
    images.tofile(tmp_path / "images")
    watched: Any = Watched(np.memmap(tmp_path / "images", np.uint8, "r", shape=images.shape))
    here, there = (train_classifier(source, labels, rows, 2, seed=0) for source in (images, watched))
    assert watched.most == BATCH_SIZE
    for name, weights in here.state_dict().items():
        assert torch.equal(weights, there.state_dict()[name]), name
    assert class_agreement(there, watched, labels, others) > 190


@pytest.mark.parametrize(("most", "epochs"), [(10_000, 12), (900, 4), (100, 1)])
def test_a_large_dataset_is_seen_less_often(monkeypatch: pytest.MonkeyPatch, most: int, epochs: int) -> None:
    monkeypatch.setattr(classifier, "MOST_IMAGES_SEEN", most)
    images, labels = bars(200)
    watched: Any = Watched(images)
    train_classifier(watched, labels, np.arange(200), 2, seed=0)
    assert watched.taken == epochs * 200


def test_large_images_are_shrunken_and_small_ones_are_left() -> None:
    large = torch.zeros(2, 3, 2 * MAX_SIDE, 2 * MAX_SIDE, dtype=torch.uint8)
    large[..., ::2] = 200
    assert torch.equal(shrink(large), torch.full((2, 3, MAX_SIDE, MAX_SIDE), 100, dtype=torch.uint8))
    small = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    assert shrink(small) is small

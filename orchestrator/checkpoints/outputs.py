"""What is made of a checkpoint while training goes on: a preview, an export, a score. Which of it is owed."""

from typing import Literal

from orchestrator import storage
from orchestrator.config.schema import ExperimentConfig
from orchestrator.config.training import TrainConfig

Output = Literal["preview", "export", "score"]
FILES: dict[Output, str] = {
    "preview": "previews/{}.png",
    "export": "exports/{}/README.md",
    "score": "scores/{}.json",
}
"""Where each lies in the run's folder, by images seen. Of an export it is the file that is written last."""
HOLDING: tuple[Output, ...] = ("export", "score")
"""A checkpoint stays until these are made of it. Previews are the cheapest to do without."""


def crossed(before: int, after: int, every: int) -> bool:
    """Whether a multiple of ``every`` images lies in ``(before, after]``; batches need not end on it."""
    return before // every != after // every


def wanted(train: TrainConfig, images_seen: int) -> list[Output]:
    """What the cadences ask for of the checkpoint at ``images_seen``, in the order of its making."""
    cadences: dict[Output, int] = {
        "preview": train.preview_every_images,
        "export": train.export_every_images,
        "score": train.score_every_images,
    }
    before = images_seen - train.batch_size
    return [kind for kind, every in cadences.items() if every > 0 and crossed(before, images_seen, every)]


def file_of(directory: str, kind: Output, images_seen: int) -> str:
    """The file that is there when ``kind`` is made, whole."""
    return storage.join(directory, FILES[kind].format(images_seen))


def failure_of(directory: str, kind: Output, images_seen: int) -> str:
    """The file that says why ``kind`` could not be made."""
    return storage.join(directory, "failed", f"{kind}-{images_seen}.txt")


def holds(config: ExperimentConfig, images_seen: int) -> bool:
    """Whether the checkpoint at ``images_seen`` must stay, because something is still to be made of it.

    What was tried and failed does not hold it: a cause that stays would fill the disk.
    """
    directory = config.directory
    return any(
        not storage.is_file(file_of(directory, kind, images_seen))
        and not storage.is_file(failure_of(directory, kind, images_seen))
        for kind in wanted(config.train, images_seen)
        if kind in HOLDING
    )

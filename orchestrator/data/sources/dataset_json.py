"""``dataset.json`` beside the images of StyleGAN and edm2: ``{"labels": [["00000/x.png", 6], ...]}``."""

import json

from orchestrator.data.sources import reasons
from orchestrator.data.sources.files import Omitted
from orchestrator.data.sources.names import printable
from orchestrator.errors import UserError

NAME = "dataset.json"
MOST_BYTES = 1 << 28
"""ImageNet's has 50 MB."""
_Label = int | float | str | None


def read_labels(content: bytes, place: str) -> dict[str, _Label] | None:
    """An image's name -> its label; None where the file is another one of this name, without ``labels``.

    Raises:
        UserError: it is damaged, has no labels for its images, or is of latents.
    """
    place = printable(place)
    try:
        if len(content) > MOST_BYTES:
            raise ValueError(f"it has {len(content)} bytes")
        whole = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{place} cannot be read ({error}), so nobody knows the images' labels. Fetch or make it again."
        ) from error
    if not isinstance(whole, dict) or "labels" not in whole:
        return None
    if whole["labels"] is None:
        raise UserError(
            f"{place} says that its images have no labels (null). Make it again with labels. Where folders "
            f"are the classes, take {NAME} away and use --data.source image_folder."
        )
    labels: dict[str, _Label] = {}
    for name, label in _pairs(whole["labels"], place):
        if labels.setdefault(name, label) != label:
            raise UserError(
                f"{place} gives {printable(name)} two labels, {labels[name]} and {label}. Correct it."
            )
    if labels and all(name.lower().endswith(".npy") for name in labels):
        raise UserError(
            f"{place} is of latents, such as {printable(next(iter(labels)))}. They were encoded by another "
            "VAE's settings than is known here. Give the images that they were made from."
        )
    return labels


def _pairs(listed: object, place: str) -> list[tuple[str, _Label]]:
    if not isinstance(listed, list):
        raise UserError(f'{place} has no list under "labels". Make it again.')
    pairs = []
    for entry in listed:
        match entry:
            case [str(name), (int() | float() | str() | None) as label]:
                pass
            case [str(name), [int() | float() | str() as label]]:
                pass
            case _:
                raise UserError(
                    f"{place} holds {json.dumps(entry)[:80]}, and not an image's name with one label. "
                    "Labels are class numbers from 0, or names."
                )
        pairs.append((name.replace("\\", "/"), label))
    return pairs


def without_image(labels: dict[str, _Label], there: set[str], place: str) -> list[Omitted]:
    """What has a label and is not there."""
    missing = [name for name in labels if name not in there]
    return [
        Omitted(f"{printable(place)}: {printable(name)}", reasons.WITHOUT_IMAGE, f"only {NAME} names it")
        for name in missing
    ]

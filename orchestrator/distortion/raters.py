"""The page that people judge images on, and the key that tells which model each image is of."""

import base64
import io
import json
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from dimr_model import randomness

if TYPE_CHECKING:
    from orchestrator.distortion.study import Verdicts

RATERS_PER_IMAGE = 5
"""How many people judge each image, as in the paper (Section 5.3)."""
SMOOTH_FROM = 128
"""Pixels of a side; smaller images are shown with their pixels as squares."""


def choose_images(
    verdicts: "Sequence[Verdicts]", threshold: float, per_model: int, seed: int
) -> list[tuple[str, int]]:
    """Choose equally many low-fidelity images of each model at random, mixed: (model, place) of each."""
    # Images of all models are merged, so that a rater cannot tell them apart (the paper's Section 5.3).
    chosen: list[tuple[str, int]] = []
    for number, one in enumerate(verdicts):
        low = np.flatnonzero(one.scored.is_low(threshold))
        order = randomness.generator(seed, "raters-images", number).permutation(len(low))
        chosen += [(one.scored.name, int(low[place])) for place in order[:per_model]]
    return [chosen[place] for place in randomness.generator(seed, "raters-mixed").permutation(len(chosen))]


def assignments(images: int, raters: int, seed: int) -> list[list[int]]:
    """Say which images each rater sees, and in which order.

    Every image goes to five raters. All raters get equally many images, or one more.

    Raises:
        ValueError: there are fewer than five raters.
    """
    if raters < RATERS_PER_IMAGE:
        raise ValueError(f"every image is judged by {RATERS_PER_IMAGE} raters, and there are {raters}")
    seen: list[list[int]] = [[] for _ in range(raters)]
    for image in range(images):
        for turn in range(RATERS_PER_IMAGE):
            seen[(image * RATERS_PER_IMAGE + turn) % raters].append(image)
    orders = (randomness.generator(seed, "raters-order", number) for number in range(raters))
    return [
        [mine[place] for place in order.permutation(len(mine))]
        for mine, order in zip(seen, orders, strict=True)
    ]


def make_page(
    study: str,
    verdicts: "Sequence[Verdicts]",
    chosen: Sequence[tuple[str, int]],
    threshold: float,
    class_names: Sequence[str],
    raters: int,
    seed: int,
) -> tuple[str, dict[str, Any]]:
    """Make the page, which names no model, and the key to its images."""
    by_name = {one.scored.name: one for one in verdicts}
    images, key = [], {}
    for number, (name, place) in enumerate(chosen):
        one, identity = by_name[name], f"{number:04d}"
        pixels = one.images(np.array([place]), threshold)[0]
        images.append(
            {
                "id": identity,
                "label": class_names[one.scored.labels[place]],
                "data": _data_uri(pixels),
                "large": pixels.shape[-1] >= SMOOTH_FROM,
            }
        )
        key[identity] = {"model": name, "index": place}
    content = {"id": study, "images": images, "assignments": assignments(len(images), raters, seed)}
    page = resources.files(__package__).joinpath("raters.html").read_text(encoding="utf-8")
    # Nothing in a class name may end the script element.
    data = json.dumps(content).replace("</", "<\\/")
    return page.replace("__STUDY__", data), {"study": study, "raters": raters, "images": key}


def _data_uri(pixels: Any) -> str:
    # Imported here: the command line needs this module, and pictures need torch.
    from orchestrator.distortion.pictures import as_picture

    content = io.BytesIO()
    as_picture(pixels).save(content, format="WEBP", lossless=True)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"

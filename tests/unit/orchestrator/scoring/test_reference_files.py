"""What is wrong with a reference is said before anything is sampled, and without torch."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from orchestrator.benchmarks.score import untrained_inception
from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import UserError
from orchestrator.scoring.prerequisites import require_reference
from orchestrator.scoring.real_images import ImageReader, open_images
from orchestrator.scoring.reference import load_references
from tests.configs import tiny
from tests.datasets import write_numbered

IMAGES = np.zeros((6, 2, 2, 3), np.uint8)
MU, SIGMA = np.zeros(2048), np.eye(2048)


@pytest.fixture
def config(tmp_path: Path) -> ExperimentConfig:
    return tiny(tmp_path, str(tmp_path / "none"))


def with_inception(config: ExperimentConfig, **changes: Any) -> ExperimentConfig:
    evaluation = dataclasses.replace(config.evaluation, extractors=("inception",), **changes)
    return dataclasses.replace(config, evaluation=evaluation)


def about(resolution: int = 2, name: str = "efficientnet_lite0") -> Any:
    return np.array(json.dumps({"resolution": resolution, "extractor": {"name": name}, "images": 6}))


OWN = {"mu": np.zeros(4), "sigma": np.eye(4), "features": np.zeros((6, 4))}


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.zeros(3)}, "holds x, and neither statistics .* nor images"),
        ({"arr_0": np.zeros((6, 2, 2, 3), np.float32)}, "arr_0 .* is float32"),
        ({"arr_0": np.zeros((6, 2, 3, 3), np.uint8)}, "not uint8 .* of square images"),
        ({"arr_0": np.zeros((6, 4, 4, 3), np.uint8)}, "are 4x4 and the network samples 2x2"),
        ({"mu": MU}, "it has no sigma"),
        ({"mu": MU, "sigma": np.eye(3)}, "they do not belong together"),
        ({"mu": MU, "sigma": SIGMA}, "Set --evaluation.extractors '.inception.'"),
        ({"about": about(), "mu": np.zeros(4), "sigma": np.eye(4)}, "it has no features"),
        ({"about": about(resolution=8), **OWN}, "is of 8x8 images and the network samples 2x2"),
        (
            {"about": about(name="inception"), **OWN},
            "has statistics of inception, and none of efficientnet_lite0",
        ),
        ({"about": np.array("{"), **OWN}, "cannot be read as a reference"),
    ],
)
def test_another_npz_is_refused(arrays: Any, said: str, config: ExperimentConfig, tmp_path: Path) -> None:
    np.savez(tmp_path / "reference.npz", **arrays)
    with pytest.raises(UserError, match=said):
        require_reference(str(tmp_path / "reference.npz"), config)


@pytest.mark.parametrize("kind", ["cut short", "page of an error", "empty", "pickled"])
def test_what_is_no_whole_npz_is_refused(kind: str, config: ExperimentConfig, tmp_path: Path) -> None:
    file = tmp_path / "reference.npz"
    np.savez(file, arr_0=np.array([{"a": 1}], object) if kind == "pickled" else IMAGES)
    content = file.read_bytes()
    file.write_bytes(
        {"cut short": content[:-60], "page of an error": b"<html>", "empty": b""}.get(kind, content)
    )
    for check in (require_reference, open_images):
        with pytest.raises(UserError, match=r"reference.npz"):
            check(str(file), config)


def test_a_damaged_array_is_refused_when_it_is_read(config: ExperimentConfig, tmp_path: Path) -> None:
    file = tmp_path / "reference.npz"
    np.savez(file, arr_0=np.zeros((600, 2, 2, 3), np.uint8))
    content = bytearray(file.read_bytes())
    content[2000] ^= 1
    file.write_bytes(content)
    images = open_images(str(file), config)
    with pytest.raises(UserError, match=r"reference.npz cannot be read.*damaged"):
        ImageReader(images, config).read(images.ranges[0])


def test_statistics_without_images_give_distances_alone(config: ExperimentConfig, tmp_path: Path) -> None:
    np.savez(tmp_path / "stats.npz", mu=MU, sigma=SIGMA)
    inception = with_inception(config, extractor_weights=str(untrained_inception(tmp_path / "inception.pth")))
    (found,) = load_references(str(tmp_path / "stats.npz"), inception, Console(quiet=True))
    assert found.target.features is None and found.target.gaussian.mean.shape == (2048,)
    assert "no KID, precision or recall" in found.about["kind"]
    np.savez(tmp_path / "stats.npz", mu=MU * np.nan, sigma=SIGMA)
    with pytest.raises(UserError, match="mu in .* is not finite"):
        load_references(str(tmp_path / "stats.npz"), inception, Console(quiet=True))


class TestFolders:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "images").mkdir()
        for number in range(4):
            Image.new("RGB", (2, 2), (number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
        return tmp_path / "images"

    def test_hidden_files_and_copies_are_left_out_and_links_followed(
        self, folder: Path, config: ExperimentConfig, tmp_path: Path
    ) -> None:
        (folder / "._0.png").write_bytes(b"\0\5\x16\7")
        (folder / ".ipynb_checkpoints").mkdir()
        Image.new("RGB", (9, 9)).save(folder / ".ipynb_checkpoints" / "0-checkpoint.png")
        (folder / "notes.txt").write_text("words")
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        Image.new("RGB", (2, 2), (7, 0, 0)).save(elsewhere / "7.png")
        (folder / "more").symlink_to(elsewhere)
        images = open_images(str(folder), config)
        assert images.count == 5
        require_reference(str(folder), config)

    def test_modes_are_decoded_as_datasets_are(self, folder: Path, config: ExperimentConfig) -> None:
        Image.fromarray(np.full((2, 2), 32768, np.uint16)).save(folder / "4.png")
        Image.new("LA", (2, 2), (0, 0)).save(folder / "5.png")
        Image.new("L", (2, 2), 9).save(folder / "6.png")
        images = open_images(str(folder), config)
        pixels = ImageReader(images, config).read(images.ranges[0])["image"]
        assert pixels[:, :, 0, 0].tolist()[4:] == [[128] * 3, [255] * 3, [9] * 3]

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [("-0.png", b"", "-0.png is no image"), ("z.png", b"no image", "z.png is no image"),
         ("z.png", (3, 3), "z.png is 3x3 and the others are 2x2")],
    )  # fmt: skip
    def test_a_bad_image_is_named_wherever_it_stands(
        self, name: str, content: Any, said: str, folder: Path, config: ExperimentConfig
    ) -> None:
        if isinstance(content, tuple):
            Image.new("RGB", content).save(folder / name)
        else:
            (folder / name).write_bytes(content)
        with pytest.raises(UserError, match=said):
            require_reference(str(folder), config)

    def test_another_resolution_or_no_images_are_refused(self, folder: Path, tmp_path: Path) -> None:
        model = {"input_size": 4, "channels": 1, "num_classes": 3, "depths": [1, 1], "widths": [8, 8]}
        larger = tiny(tmp_path, "none", model={**model, "num_heads": 2})
        with pytest.raises(UserError, match="are 2x2 and the network samples 4x4"):
            require_reference(str(folder), larger)
        (tmp_path / "texts").mkdir()
        (tmp_path / "texts" / "a.txt").write_text("words")
        with pytest.raises(UserError, match="There are no images in"):
            require_reference(str(tmp_path / "texts"), larger)


def test_a_dataset_of_another_resolution_is_refused(config: ExperimentConfig, tmp_path: Path) -> None:
    write_numbered(tmp_path / "data", 12, 4, size=8)
    for check in (require_reference, open_images):
        with pytest.raises(UserError, match="are 8x8 and the network samples 2x2"):
            check(str(tmp_path / "data"), config)


def test_looking_does_not_load_torch() -> None:
    code = "import sys, orchestrator.scoring.prerequisites; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[4]).returncode == 0

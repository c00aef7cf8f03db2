"""An evaluation in one process: what it measures and refuses, and that nothing finished is done twice."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from rich.console import Console

from dimr_model import DiMR
from dimr_model.sampling import balanced_labels
from orchestrator.benchmarks.score import untrained_inception
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.errors import UserError
from orchestrator.sampling.parts import Parts
from orchestrator.sampling.sampler import ImageSampler
from orchestrator.sampling.sinks import class_indices
from orchestrator.scoring.evaluate import Evaluation, EvaluationResult, evaluate, plain, sample_images
from orchestrator.scoring.model_under_test import ModelUnderTest, load_model_under_test
from orchestrator.scoring.paper_numbers import paper_value
from orchestrator.scoring.reference import Reference, load_references
from orchestrator.scoring.results import results_folder, write_scores
from tests.configs import tiny
from tests.datasets import write_numbered

SILENT = Console(quiet=True)


def with_evaluation(config: ExperimentConfig, **changes: Any) -> ExperimentConfig:
    return dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, **changes))


def reference_at(path: str, config: ExperimentConfig, console: Console) -> Reference:
    """The reference for the config's only extractor."""
    (found,) = load_references(path, config, console)
    return found


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> LatentDataset:
    return write_numbered(tmp_path_factory.mktemp("data") / "numbered", 60, 10)


@pytest.fixture
def config(tmp_path: Path, dataset: LatentDataset) -> ExperimentConfig:
    return tiny(tmp_path, dataset.path)


@pytest.fixture
def tested(config: ExperimentConfig, tmp_path: Path) -> ModelUnderTest:
    torch.manual_seed(0)
    DiMR(config.model).save_pretrained(tmp_path / "exported")
    return load_model_under_test(str(tmp_path / "exported"), config)


def here(
    config: ExperimentConfig, tested: ModelUnderTest, dataset: LatentDataset | None, **changes: Any
) -> EvaluationResult:
    return evaluate(Evaluation(with_evaluation(config, **changes), tested, dataset, SILENT))


def test_every_score_has_its_protocol_and_its_controls(
    config: ExperimentConfig, tested: ModelUnderTest, dataset: LatentDataset
) -> None:
    scores = here(config, tested, dataset)
    found = plain(scores.measurements)
    assert set(found) == {
        f"{name}12_efficientnet_lite0_{images}"
        for name, images in (
            ("fd", "exported"), ("kid", "exported"), ("precision", "exported"), ("recall", "exported"),
            ("density", "exported"), ("coverage", "exported"), ("fd", "real"), ("fd", "noise"),
        )
    }  # fmt: skip
    protocol = found["fd12_efficientnet_lite0_exported"]["protocol"]
    assert protocol["samples"] == 12
    assert protocol["sampler"] == {"kind": "dpm_solver_multistep", "steps": 2}
    assert protocol["labels"].startswith("balanced")
    assert protocol["guidance"]["convention"]
    assert protocol["weights"]["sha256"] == tested.weights["sha256"]
    assert protocol["reference"]["images"] == 48
    assert found["kid12_efficientnet_lite0_exported"]["protocol"]["settings"]["kid_subset_size"] == 12
    # Twelve samples in 320 dimensions.
    assert any("singular" in warning and "321" in warning for warning in scores.warnings)


def test_what_is_finished_is_not_drawn_again(
    config: ExperimentConfig, tested: ModelUnderTest, dataset: LatentDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = here(config, tested, dataset)
    drawn: list[int] = []
    sample = ImageSampler.sample

    def counting(self: ImageSampler, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        drawn.extend(indices)
        return sample(self, indices)

    monkeypatch.setattr(ImageSampler, "sample", counting)
    again = here(config, tested, dataset)
    assert drawn == []
    assert plain(again.measurements) == plain(first.measurements)
    longer = here(config, tested, dataset, images=20)
    assert drawn == list(range(12, 20))
    assert longer.measurements[0].name.startswith("fd20_")


def test_an_interrupted_evaluation_goes_on(
    config: ExperimentConfig, tested: ModelUnderTest, dataset: LatentDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = here(config, tested, dataset)
    other = dataclasses.replace(config, run=dataclasses.replace(config.run, name="interrupted"))
    sample = ImageSampler.sample

    def interrupted(self: ImageSampler, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        if indices[0] >= 8:
            raise KeyboardInterrupt
        return sample(self, indices)

    monkeypatch.setattr(ImageSampler, "sample", interrupted)
    with pytest.raises(KeyboardInterrupt):
        here(other, tested, dataset)
    monkeypatch.undo()
    finished = here(other, tested, dataset)
    assert plain(finished.measurements) == plain(undisturbed.measurements)


def test_weights_that_draw_nan_are_refused_and_lose_nothing(
    config: ExperimentConfig, tested: ModelUnderTest, dataset: LatentDataset
) -> None:
    with torch.no_grad():
        next(tested.model.parameters()).fill_(float("nan"))
    broken = dataclasses.replace(tested, weights={**tested.weights, "sha256": "0" * 64})
    with pytest.raises(UserError, match="not finite"):
        here(config, broken, dataset)


def test_sinks_hold_the_images_and_say_that_they_are_synthetic(
    config: ExperimentConfig, tested: ModelUnderTest, dataset: LatentDataset
) -> None:
    scores = here(config, tested, dataset, save=("parquet", "npz"), grid_classes=(2,))
    folder = Path(scores.samples.folder)
    with np.load(folder / "samples-12.npz") as stored:
        images, labels = stored["arr_0"], stored["arr_1"]
    assert images.shape == (12, 2, 2, 3)
    assert images.dtype == np.uint8
    assert labels.tolist() == balanced_labels(list(range(12)), 3).tolist()
    drawn, _ = ImageSampler(config, tested.model, None).sample([4, 5, 6, 7])
    assert np.array_equal(images[4:8, ..., :1], drawn.permute(0, 2, 3, 1).numpy())
    table = pq.read_table(folder / "images" / "00000004-00000008.parquet")
    assert table["index"].to_pylist() == [4, 5, 6, 7]
    assert b"Synthetic" in table["image"][0].as_py()
    for picture in scores.samples.pictures.values():
        with Image.open(picture) as opened:
            assert "Synthetic" in opened.text["Description"]  # type: ignore[attr-defined]


def test_drawing_alone_needs_no_extractor(
    config: ExperimentConfig, tested: ModelUnderTest, dataset: LatentDataset
) -> None:
    no_inception = with_evaluation(config, extractors=("inception",), extractor_weights="/nowhere")
    drawn = sample_images(Evaluation(no_inception, tested, dataset, SILENT), judges={})
    (part, *_) = drawn.work.parts.read(list(drawn.work.ranges))
    assert "features" not in part
    assert Path(drawn.pictures["final_samples"]).exists()


@pytest.mark.parametrize("labels", ["balanced", "random"])
def test_a_class_grid_shows_its_class(config: ExperimentConfig, labels: Any) -> None:
    chosen = dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, labels=labels))
    indices = class_indices(chosen, 2)
    assert len(set(indices)) == 24
    from orchestrator.sampling.sampler import labels_of

    assert set(labels_of(chosen, indices).tolist()) == {2}


def test_results_lie_beside_the_samples(
    config: ExperimentConfig, tested: ModelUnderTest, dataset: LatentDataset
) -> None:
    scores = here(config, tested, dataset)
    folder = results_folder(scores)
    write_scores(folder, scores, tested.images_seen, scores.seconds)
    stored = json.loads((Path(folder) / "metrics.json").read_text())
    assert stored["metrics"] == json.loads(json.dumps(plain(scores.measurements)))
    assert (Path(folder) / "samples.png").exists()


class TestReference:
    """A reference comes in several forms, and one that does not fit is refused."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "images" / "a").mkdir(parents=True)
        for number in range(20):
            Image.fromarray(np.full((2, 2, 3), 10 * number, np.uint8)).save(
                tmp_path / "images" / "a" / f"{number}.png"
            )
        return tmp_path / "images"

    def test_a_folder_and_an_npz_of_the_same_images_give_the_same_numbers(
        self, config: ExperimentConfig, tested: ModelUnderTest, folder: Path, tmp_path: Path
    ) -> None:
        arrays = [np.array(Image.open(file)) for file in sorted(folder.rglob("*.png"))]
        np.savez(tmp_path / "images.npz", arr_0=np.stack(arrays))
        of_folder = here(config, tested, None, reference=str(folder))
        of_npz = here(config, tested, None, reference=str(tmp_path / "images.npz"))
        for one, two in zip(of_folder.measurements, of_npz.measurements, strict=True):
            assert one.name == two.name
            assert one.value == pytest.approx(two.value, rel=1e-6)
        assert of_folder.measurements[0].protocol["reference"]["images"] == 20

    def test_statistics_in_a_file_are_taken_as_they_are(
        self, config: ExperimentConfig, tested: ModelUnderTest, folder: Path, tmp_path: Path
    ) -> None:
        made = reference_at(str(folder), config, SILENT)
        stored = Path(made.path).rename(tmp_path / "stored.npz")
        direct = here(config, tested, None, reference=str(folder))
        again = here(config, tested, None, reference=str(stored))
        assert [m.value for m in direct.measurements] == [m.value for m in again.measurements]

    def test_statistics_of_another_extractor_are_refused(
        self, config: ExperimentConfig, folder: Path, tmp_path: Path
    ) -> None:
        path = Path(reference_at(str(folder), config, SILENT).path)
        with np.load(path) as stored:
            content = dict(stored)
        facts = json.loads(str(content["about"]))
        facts["extractor"]["weights_sha256"] = "f" * 64
        np.savez(tmp_path / "other.npz", **{**content, "about": np.array(json.dumps(facts))})
        with pytest.raises(UserError, match="made with another efficientnet_lite0: weights_sha256"):
            reference_at(str(tmp_path / "other.npz"), config, SILENT)

    def test_another_resolution_is_refused(
        self, config: ExperimentConfig, folder: Path, tmp_path: Path
    ) -> None:
        path = reference_at(str(folder), config, SILENT).path
        larger = tiny(
            tmp_path, config.data.path,
            model={
                "input_size": 4, "channels": 1, "num_classes": 3, "depths": [1, 1], "widths": [8, 8],
                "num_heads": 2,
            },
        )  # fmt: skip
        with pytest.raises(UserError, match="2x2 images and the network samples 4x4"):
            reference_at(path, larger, SILENT)
        with pytest.raises(UserError, match="are 2x2 and the network samples 4x4"):
            reference_at(str(folder), larger, SILENT)

    def test_adms_statistics_need_inception(self, config: ExperimentConfig, tmp_path: Path) -> None:
        np.savez(
            tmp_path / "adm.npz",
            mu=np.zeros(2048),
            sigma=np.eye(2048),
        )
        with pytest.raises(UserError, match="holds statistics of Inception's features"):
            reference_at(str(tmp_path / "adm.npz"), config, SILENT)

    @pytest.mark.faults
    def test_adms_statistics_are_taken_as_they_are_and_its_images_for_precision_and_recall(
        self, config: ExperimentConfig, tested: ModelUnderTest, folder: Path, tmp_path: Path
    ) -> None:
        weights = untrained_inception(tmp_path / "inception.pth")
        config = with_evaluation(config, extractors=("inception",), extractor_weights=str(weights), images=4)
        with np.load(reference_at(str(folder), config, SILENT).path) as made:
            statistics = {name: made[name] for name in ("mu", "sigma", "mu_s", "sigma_s")}
        images = [np.asarray(Image.open(file).convert("RGB")) for file in sorted(folder.rglob("*.png"))]
        moved = {**statistics, "mu": statistics["mu"] + 1, "mu_s": statistics["mu_s"] + 2}
        found = []
        for name, arrays in {"whole": statistics, "moved": moved}.items():
            np.savez(tmp_path / f"{name}.npz", arr_0=np.stack(images), **arrays)
            scores = here(config, tested, None, reference=str(tmp_path / f"{name}.npz"))
            found.append(
                {
                    m.name_without_count.removesuffix("_inception_exported"): m.value
                    for m in scores.measurements
                }
            )
        direct = here(config, tested, None, reference=str(folder))
        whole, shifted = found
        assert whole.keys() == {"fid", "sfid", "is", "kid", "precision", "recall", "density", "coverage"}
        for measurement in direct.measurements:
            name = measurement.name_without_count.removesuffix("_inception_exported")
            # The logits of random weights are too large for an Inception Score.
            assert whole[name] == pytest.approx(measurement.value, rel=1e-6, nan_ok=True), name
        assert shifted["fid"] != pytest.approx(whole["fid"], rel=0.01)
        assert shifted["sfid"] != pytest.approx(whole["sfid"], rel=0.01)
        same = ("kid", "precision", "recall", "density", "coverage")
        assert [shifted[name] for name in same] == [whole[name] for name in same]

    def test_images_of_several_sizes_and_broken_ones_are_named(
        self, config: ExperimentConfig, folder: Path
    ) -> None:
        Image.fromarray(np.zeros((3, 3, 3), np.uint8)).save(folder / "z.png")
        with pytest.raises(UserError, match=r"z.png is 3x3 and the others are 2x2"):
            reference_at(str(folder), config, SILENT)
        (folder / "z.png").write_bytes(b"no image")
        with pytest.raises(UserError, match=r"z.png is no image"):
            reference_at(str(folder), config, SILENT)

    @pytest.mark.parametrize(
        ("name", "said"),
        [("nothing.npz", "There is no reference at"), ("nothing", "There is no reference at")],
    )
    def test_what_is_not_there_is_said(
        self, config: ExperimentConfig, tmp_path: Path, name: str, said: str
    ) -> None:
        with pytest.raises(UserError, match=said):
            reference_at(str(tmp_path / name), config, SILENT)

    def test_without_dataset_and_reference_there_is_nothing_to_compare_with(
        self, config: ExperimentConfig, tested: ModelUnderTest
    ) -> None:
        with pytest.raises(UserError, match="nothing to compare with"):
            here(config, tested, None)


def test_a_half_written_part_is_no_part(tmp_path: Path) -> None:
    (tmp_path / ".00000000-00000004.safetensors.77.writing").write_bytes(b"half")
    assert Parts(str(tmp_path)).finished() == set()


def test_the_papers_numbers_stand_only_beside_its_own_protocol() -> None:
    from dimr_model import VARIANTS

    model = VARIANTS["G/2R-256"]
    assert paper_value(model, "fid", True, 50_000, "inception").startswith("1.63")
    assert paper_value(model, "fid", False, 50_000, "inception").startswith("3.56")
    assert paper_value(model, "fid", True, 10_000, "inception") == ""
    assert paper_value(model, "fd", True, 50_000, "efficientnet_lite0") == ""
    assert paper_value(dataclasses.replace(model, num_heads=8), "fid", True, 50_000, "inception") == ""

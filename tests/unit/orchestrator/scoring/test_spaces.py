"""Several extractors look at each image in one pass; what is asked for and not there is said before that."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from dimr_model import DiMR
from orchestrator.config.command_line import parse
from orchestrator.config.evaluation import EvaluationConfig
from orchestrator.config.plain import from_dict, to_dict
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.errors import UserError
from orchestrator.sampling.sampler import ImageSampler
from orchestrator.scoring import pipeline
from orchestrator.scoring.command import reference as make_reference
from orchestrator.scoring.evaluate import Evaluation, EvaluationResult, evaluate, plain
from orchestrator.scoring.extractors import check_weights
from orchestrator.scoring.model_under_test import ModelUnderTest, load_model_under_test
from orchestrator.scoring.prerequisites import require_all, require_reference
from orchestrator.scoring.real_images import ImageReader
from orchestrator.scoring.reference import load_references
from tests.configs import tiny
from tests.datasets import write_numbered

SILENT = Console(quiet=True)
BOTH = ["efficientnet_lite0", "dataset_classifier"]


@pytest.fixture
def dataset(tmp_path: Path) -> LatentDataset:
    return write_numbered(tmp_path / "data", 60, 10, size=8)


@pytest.fixture
def config(tmp_path: Path, dataset: LatentDataset) -> ExperimentConfig:
    return with_extractors(tmp_path, dataset.path, BOTH)


def with_extractors(root: Path, path: str, extractors: list[str], **changes: Any) -> ExperimentConfig:
    evaluation = {"images": 12, "extractors": extractors, **changes}
    return tiny(root, path, model={"input_size": 8, "patch_size": 2}, evaluation=evaluation)


@pytest.fixture
def tested(config: ExperimentConfig, tmp_path: Path) -> ModelUnderTest:
    torch.manual_seed(0)
    DiMR(config.model).save_pretrained(tmp_path / "exported")
    return load_model_under_test(str(tmp_path / "exported"), config)


def here(
    config: ExperimentConfig, tested: ModelUnderTest, dataset: LatentDataset | None, console: Console = SILENT
) -> EvaluationResult:
    return evaluate(Evaluation(config, tested, dataset, console))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Which images were sampled, and which ranges of real ones were read, in order."""
    seen: dict[str, list[int]] = {"sampled": [], "read": []}
    sample, read = ImageSampler.sample, ImageReader.read

    def sampling(self: ImageSampler, indices: list[int]) -> Any:
        seen["sampled"] += indices
        return sample(self, indices)

    def reading(self: ImageReader, piece: Any) -> Any:
        if self._images.kind != "noise":
            seen["read"].append(piece.start)
        return read(self, piece)

    monkeypatch.setattr(ImageSampler, "sample", sampling)
    monkeypatch.setattr(ImageReader, "read", reading)
    return seen


def test_one_pass_feeds_all_and_each_number_is_what_its_extractor_alone_gives(
    config: ExperimentConfig, tested: ModelUnderTest, dataset: LatentDataset, tmp_path: Path, passes: Any
) -> None:
    both = plain(here(config, tested, dataset).measurements)
    assert passes["sampled"] == list(range(12))
    # Once to train the classifier, once for the features of both.
    assert len(passes["read"]) == 2 * len(set(passes["read"]))
    for extractor in BOTH:
        alone = plain(
            here(with_extractors(tmp_path / "alone", dataset.path, [extractor]), tested, dataset).measurements
        )
        assert alone.keys() == {name for name in both if extractor in name}
        for name, entry in alone.items():
            assert both[name]["value"] == pytest.approx(entry["value"], rel=1e-9), name
            assert both[name]["protocol"] == entry["protocol"], name
            assert both[name]["protocol"]["extractor"]["name"] == extractor
    distances = [both[f"fd12_{extractor}_exported"] for extractor in BOTH]
    assert all(
        entry["error"] > 0 and "jackknife" in entry["protocol"]["settings"]["error"] for entry in distances
    )
    assert distances[0]["value"] != pytest.approx(distances[1]["value"], rel=0.1)


def test_a_space_that_joins_later_is_made_alone(
    tested: ModelUnderTest, dataset: LatentDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: list[tuple[str, ...]] = []
    run = pipeline.run

    def counting(work: pipeline.Work, what: str, console: Console) -> None:
        if what == "reference" and getattr(work.images, "kind", "") == "dataset":
            kinds.append(work.extractors)
        run(work, what, console)

    monkeypatch.setattr(pipeline, "run", counting)
    for extractors in (BOTH[:1], BOTH, BOTH[::-1]):
        here(with_extractors(tmp_path, dataset.path, extractors), tested, dataset)
    assert kinds == [("efficientnet_lite0",), ("dataset_classifier",)]


def test_warnings_are_said_before_anything_is_sampled(
    config: ExperimentConfig, tested: ModelUnderTest, dataset: LatentDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(record=True, width=400, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115

    def sample(self: ImageSampler, indices: list[int]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageSampler, "sample", sample)
    with pytest.raises(KeyboardInterrupt):
        here(config, tested, dataset, console)
    said = console.export_text()
    assert "12 samples are fewer than the 321 that a covariance of 320 dimensions" in said
    assert "12 samples are fewer than the 129 that a covariance of 128 dimensions" in said


def test_an_extractor_twice_and_none_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        EvaluationConfig(extractors=())
    with pytest.raises(ValueError, match="names one twice"):
        EvaluationConfig(extractors=("inception", "clip", "inception"))


def test_the_older_name_of_the_setting_is_read_as_the_list(config: ExperimentConfig) -> None:
    assert EvaluationConfig().extractors == ("inception",)
    assert EvaluationConfig(extractor="efficientnet_lite0") == EvaluationConfig(
        extractors=("efficientnet_lite0",)
    )
    older = to_dict(config)
    older["evaluation"] = {"images": 12, "extractor": "efficientnet_lite0"}
    assert from_dict(older).evaluation.extractors == ("efficientnet_lite0",)
    assert to_dict(from_dict(older))["evaluation"]["extractor"] is None
    config = parse("", "quickstart", ["--evaluation.extractors", "[inception, clip]"])
    assert config.evaluation.extractors == ("inception", "clip")
    with pytest.raises(UserError, match="two names of one setting"):
        parse("", "quickstart", ["--evaluation.extractor", "clip"])
    with pytest.raises(ValueError, match=r"two names of one setting.*--evaluation.extractors '\[clip\]'"):
        EvaluationConfig(extractor="clip", extractors=("inception", "dinov2"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(20):
        pixels = random.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    return tmp_path / "images"


def write(config: ExperimentConfig, folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `evaluate.py reference` writes."""
    import contextlib

    from orchestrator import cluster
    from orchestrator.config.plain import to_yaml

    monkeypatch.setattr(cluster, "connect", lambda config: contextlib.nullcontext())
    (path.parent / "config.yaml").write_text(to_yaml(config))
    make_reference(
        ["--config", str(path.parent / "config.yaml"), "--images", str(folder), "--out", str(path)]
    )


def test_a_reference_of_several_spaces_is_one_file(
    config: ExperimentConfig, tested: ModelUnderTest, dataset: LatentDataset, folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from orchestrator.scoring.dataset_classifier import classifier_file

    with pytest.raises(UserError, match="--evaluation.dataset_classifier_weights"):
        write(config, folder, tmp_path / "both.npz", monkeypatch)
    evaluation = dataclasses.replace(
        config.evaluation, dataset_classifier_weights=classifier_file(config, dataset)
    )
    config = dataclasses.replace(config, evaluation=evaluation)
    write(config, folder, tmp_path / "both.npz", monkeypatch)
    direct, stored = (load_references(str(path), config, SILENT) for path in (folder, tmp_path / "both.npz"))
    for one, other in zip(direct, stored, strict=True):
        assert one.about["extractor"] == other.about["extractor"]
        assert np.array_equal(one.target.gaussian.covariance, other.target.gaussian.covariance)
    scored = here(
        dataclasses.replace(
            config, evaluation=dataclasses.replace(evaluation, reference=str(tmp_path / "both.npz"))
        ),
        tested, None,
    )  # fmt: skip
    assert {m.extractor for m in scored.measurements} == set(BOTH)


def test_a_reference_without_the_space_that_is_asked_for_is_refused(
    config: ExperimentConfig, folder: Path, tmp_path: Path, dataset: LatentDataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    alone = with_extractors(tmp_path, dataset.path, BOTH[:1])
    write(alone, folder, tmp_path / "one.npz", monkeypatch)
    require_reference(str(tmp_path / "one.npz"), alone)
    with pytest.raises(UserError) as caught:
        require_reference(str(tmp_path / "one.npz"), config)
    assert "has statistics of efficientnet_lite0, and none of dataset_classifier" in str(caught.value)
    assert "--evaluation.extractors '[efficientnet_lite0]'" in str(caught.value)
    # ADM's statistics are Inception's alone; with its images beside them, others can be made.
    statistics = {"mu": np.zeros(2048), "sigma": np.eye(2048)}
    np.savez(tmp_path / "adm.npz", **statistics)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="without images"):
        require_reference(str(tmp_path / "adm.npz"), alone)
    np.savez(tmp_path / "adm.npz", **statistics, arr_0=np.zeros((6, 8, 8, 3), np.uint8))  # type: ignore[arg-type]
    (found,) = load_references(str(tmp_path / "adm.npz"), alone, SILENT)
    assert found.about["extractor"]["name"] == "efficientnet_lite0" and found.about["images"] == 6


def test_the_dataset_s_classifier_needs_a_dataset_with_classes(
    config: ExperimentConfig, tested: ModelUnderTest, folder: Path, tmp_path: Path
) -> None:
    of_folder = dataclasses.replace(
        config, evaluation=dataclasses.replace(config.evaluation, reference=str(folder))
    )
    with pytest.raises(UserError, match="dataset_classifier needs it"):
        here(of_folder, tested, None)
    one_class = write_numbered(tmp_path / "one", 60, 10, size=8)
    info = dataclasses.replace(one_class.info, class_names=("all",))
    with pytest.raises(UserError, match="has only one"):
        here(config, tested, dataclasses.replace(one_class, info=info))


def test_a_file_that_is_no_classifier_is_refused_before_training(
    config: ExperimentConfig, tmp_path: Path
) -> None:
    (tmp_path / "other.safetensors").write_bytes(b"half")
    evaluation = dataclasses.replace(
        config.evaluation, dataset_classifier_weights=str(tmp_path / "other.safetensors")
    )
    for check in (
        lambda: check_weights(evaluation),
        lambda: require_all(dataclasses.replace(config, evaluation=evaluation)),
    ):
        with pytest.raises(UserError, match="cannot be read as a dataset's classifier"):
            check()

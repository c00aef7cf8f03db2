"""Scores are torch-fidelity's own on the same images.

Inception's architecture is real, its weights are random.
"""

import dataclasses
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_fidelity
from torch.utils.data import Dataset

from orchestrator.benchmarks.score import untrained_inception
from orchestrator.config.evaluation import EvaluationConfig, ExtractorKind
from orchestrator.errors import UserError
from orchestrator.scoring.extractors import (
    _LAYERS,
    describe_extractor,
    load_extractor,
    weights_file,
)
from orchestrator.scoring.frechet import FeatureStatistics
from orchestrator.scoring.inception import WEIGHTS
from orchestrator.scoring.metrics import Collected, Target, all_metrics

COUNT = 16


class Images(Dataset):  # type: ignore[type-arg]
    """Images as torch-fidelity takes them: uint8, CHW."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index]

    def __len__(self) -> int:
        return len(self.images)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> EvaluationConfig:
    torch.set_num_threads(1)  # faster, where other processes share the cores
    path = untrained_inception(tmp_path_factory.mktemp("inception") / "weights.pth")
    return EvaluationConfig(extractors=("inception",), extractor_weights=str(path))


@pytest.fixture(scope="module")
def images() -> dict[str, torch.Tensor]:
    """Two sets of smooth images, so that they differ in more than noise."""
    generator = torch.Generator().manual_seed(0)
    sets = {}
    for name, brightness in (("samples", 0.3), ("real", 0.6)):
        small = torch.rand(COUNT, 3, 4, 4, generator=generator) * brightness + 0.2
        sets[name] = (torch.nn.functional.interpolate(small, 32) * 255).to(torch.uint8)
    return sets


@pytest.fixture(scope="module")
def collected(config: EvaluationConfig, images: dict[str, torch.Tensor]) -> dict[str, Collected]:
    extractor = load_extractor(config, "inception", use_gpu=False)
    found = {}
    for name, batch in images.items():
        features = {k: v.numpy() for k, v in extractor(batch).items()}
        found[name] = Collected(
            features["features"], (FeatureStatistics.of(features["features"]),),
            (FeatureStatistics.of(features["spatial"]),), features["logits"],
        )  # fmt: skip
    return found


@pytest.fixture(scope="module")
def ours(collected: dict[str, Collected]) -> dict[str, float]:
    real = collected["real"]
    assert real.spatial is not None
    target = Target(real.statistics.gaussian(), real.spatial.gaussian(), real.features)
    return {score.name: score.value for score in all_metrics(collected["samples"], target, "inception")}


def test_every_score_is_torch_fidelitys_own(
    config: EvaluationConfig, images: dict[str, torch.Tensor], ours: dict[str, float]
) -> None:
    theirs = torch_fidelity.calculate_metrics(
        input1=Images(images["samples"]), input2=Images(images["real"]),
        cuda=False, isc=True, fid=True, kid=True, prc=True, feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=config.extractor_weights, kid_subset_size=COUNT, save_cpu_ram=True,
        cache=False, verbose=False, batch_size=COUNT,
    )  # fmt: skip
    names = {
        "fid": "frechet_inception_distance",
        "is": "inception_score_mean",
        "kid": "kernel_inception_distance_mean",
        "precision": "precision",
        "recall": "recall",
    }
    for name, their_name in names.items():
        assert ours[name] == pytest.approx(theirs[their_name], rel=1e-6), name
    assert ours["fid"] > 1


def test_fid_equals_numpys_formula(collected: dict[str, Collected], ours: dict[str, float]) -> None:
    rows = {name: found.features.astype(np.float64) for name, found in collected.items()}
    difference = rows["samples"].mean(0) - rows["real"].mean(0)
    # Both covariances have a low rank, so the trace of the root of their product is a small matrix's sum of
    # singular values.
    centred = {name: (x - x.mean(0)) / np.sqrt(len(x) - 1) for name, x in rows.items()}
    cross = np.linalg.svd(centred["samples"] @ centred["real"].T, compute_uv=False).sum()
    traces = sum(np.square(x).sum() for x in centred.values())
    assert ours["fid"] == pytest.approx(difference @ difference + traces - 2 * cross, rel=1e-5)


def test_sfid_takes_seven_channels_with_their_positions(
    config: EvaluationConfig, images: dict[str, torch.Tensor]
) -> None:
    extractor = load_extractor(config, "inception", use_gpu=False)
    network = extractor._network  # type: ignore[attr-defined]
    inputs = []
    handle = network.Mixed_6d.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    found = extractor(images["samples"][:4])["spatial"]
    handle.remove()
    expected = network.Mixed_6d.branch1x1(inputs[0])[:, :7].movedim(1, -1).flatten(1)
    assert found.shape == (4, 2023)
    torch.testing.assert_close(found, expected)


def test_the_description_names_the_weights(config: EvaluationConfig) -> None:
    described = describe_extractor(config, "inception")
    assert (described.name, described.layer, described.dimensions) == ("inception", "2048", 2048)
    assert len(described.weights_sha256) == 64


def test_weights_that_would_run_code_are_refused(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (Path(tmp_path / "was-here"),))  # type: ignore[return-value]

    torch.save({"a": Harmful()}, tmp_path / "weights.pth")
    config = EvaluationConfig(extractors=("inception",), extractor_weights=str(tmp_path / "weights.pth"))
    with pytest.raises(UserError, match="cannot be read as Inception's weights"):
        load_extractor(config, "inception", use_gpu=False)
    assert not (tmp_path / "was-here").exists()


def test_a_broken_file_in_the_cache_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    cached = tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    cached.parent.mkdir()
    cached.write_bytes(b"half a file")
    with pytest.raises(UserError, match=f"does not begin with {WEIGHTS.sha256}"):
        weights_file(EvaluationConfig(), "inception")


def test_without_network_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(UserError) as caught:
        weights_file(EvaluationConfig(), "inception")
    for part in (
        "weights-inception-2015-12-05-6726825d.pth",
        str(tmp_path),
        "efficientnet_lite0",
        "extractor_weights",
    ):
        assert part in str(caught.value)


def test_another_path_is_taken_as_it_is(config: EvaluationConfig, tmp_path: Path) -> None:
    assert str(weights_file(config, "inception")) == config.extractor_weights
    with pytest.raises(UserError, match="which is no file"):
        weights_file(dataclasses.replace(config, extractor_weights=str(tmp_path / "none.pth")), "inception")


def test_what_is_known_without_loading_a_network_is_what_it_has() -> None:
    from orchestrator.scoring import classifier, efficientnet, inception
    from orchestrator.scoring.vision_transformers import CLIP, DINOV2

    for kind, module in {"efficientnet_lite0": efficientnet, "inception": inception}.items():
        assert _LAYERS[kind] == (module.LAYER, module.DIMENSIONS, module.INPUT_SIZE)  # type: ignore[index]
    known = (classifier.LAYER, classifier.DIMENSIONS, classifier.MAX_SIDE)
    assert _LAYERS["dataset_classifier"] == known
    assert _LAYERS["dinov2"][1:] == (DINOV2.width, DINOV2.image_size)
    assert _LAYERS["clip"][1:] == (CLIP.projection, CLIP.image_size)
    assert _LAYERS.keys() == set(typing.get_args(ExtractorKind))

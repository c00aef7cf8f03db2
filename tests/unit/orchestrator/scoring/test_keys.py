"""Whatever changes a result changes the key under which it is kept, for every setting that there is."""

import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from rich.console import Console

from dimr_model import DiMR
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.compatibility import check_model, describe_vae
from orchestrator.data.format import DatasetInfo, LatentDataset
from orchestrator.errors import UserError
from orchestrator.sampling.sampler import ImageSampler
from orchestrator.scoring import baselines, pipeline
from orchestrator.scoring.baselines import load_baselines
from orchestrator.scoring.dataset_classifier import load_classifier
from orchestrator.scoring.evaluate import Evaluation, evaluate
from orchestrator.scoring.held_out import held_out_order
from orchestrator.scoring.model_under_test import ModelUnderTest, load_model_under_test
from orchestrator.scoring.protocol import sample_protocol, samples_name
from tests.configs import tiny
from tests.datasets import write_numbered

SILENT = Console(quiet=True)


def base(root: Path) -> ExperimentConfig:
    guidance = {"kind": "power_cosine", "scale": 2.0, "power": 1.0, "interval": [0, 900]}
    return tiny(
        root, "data", model={"input_size": 8, "patch_size": 2}, train={"workers": 2},
        sampling={"sampler": {"steps": 3}, "guidance": guidance},
    )  # fmt: skip


def leaves(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and type of every setting."""
    types = typing.get_type_hints(kind)
    for setting in dataclasses.fields(kind):
        name, found = f"{prefix}{setting.name}", types[setting.name]
        if dataclasses.is_dataclass(found):
            yield from leaves(found, f"{name}.")
        else:
            yield name, found


def others(value: Any, kind: Any) -> list[Any]:
    """Values that a setting of this type could have instead; the first possible one is taken."""
    if typing.get_origin(kind) is Literal:
        return [choice for choice in typing.get_args(kind) if choice != value]
    match value:
        case bool():
            return [not value]
        case int():
            return [value + 1, value * 2, value // 2, 0, 32, 64]
        case float():
            return [value * 2, value / 2, value + 1]
        case str():
            return [f"{value}2", "s3://bucket/other"]
        case tuple():
            return [(0,), (8, 16), (0.5, 0.9), (100, 800), ("parquet",)]
    accepted = [inner for inner in typing.get_args(kind) if inner is not type(None)]
    given = {int: 1, float: 0.5, str: "other", bool: True}
    return [given[inner] for inner in accepted if inner in given] + others(0, accepted[0])


def replaced(config: Any, path: list[str], value: Any) -> Any:
    """A dataclass with another value of the setting at ``path``."""
    name, *rest = path
    inner = replaced(getattr(config, name), rest, value) if rest else value
    return dataclasses.replace(config, **{name: inner})


def changed(config: ExperimentConfig, key: str, kind: Any) -> ExperimentConfig | None:
    """The config with another value of ``key``, or None where no other is possible by itself."""
    before: Any = config
    for name in key.split("."):
        before = getattr(before, name)
    for value in others(before, kind):
        try:
            found: ExperimentConfig = replaced(config, key.split("."), value)
        except ValueError:
            continue
        if value != before:
            return found
    return None


def model_of(config: ExperimentConfig) -> ModelUnderTest:
    """A network whose weights are all drawn, so that each of them changes what is sampled."""
    model = DiMR(config.model).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    network = dataclasses.asdict(model.architecture)
    return ModelUnderTest(model, {"kind": "ema", "sha256": "the same", "network": network}, 64)


def name_of(config: ExperimentConfig, tested: ModelUnderTest) -> str:
    return samples_name(sample_protocol(config, tested, None))


def test_every_setting_changes_the_key_of_samples_or_not_a_pixel_of_them(tmp_path: Path) -> None:
    first = base(tmp_path)
    tested = model_of(first)
    expected, _ = ImageSampler(first, tested.model, None).sample(list(range(8)))
    other_key, same_images, impossible = [], [], []
    for key, kind in leaves(ExperimentConfig):
        config = changed(first, key, kind)
        if config is None or config.sampling.vae is not None:
            impossible.append(key)
            continue
        now = model_of(config)
        if name_of(config, now) != name_of(first, tested):
            other_key.append(key)
            continue
        images, _ = ImageSampler(config, now.model, None).sample(list(range(8)))
        assert torch.equal(images, expected), f"{key} changes the samples and not their key"
        same_images.append(key)
    # They change only together with others. A VAE has tests of its own.
    assert set(impossible) <= {
        "diffusion.time_shift", "sampling.vae", "model.depths", "model.widths", "model.coarsest_blocks",
        "model.has_null_class", "data.source", "evaluation.extractor",
    }  # fmt: skip
    assert len(other_key) + len(same_images) > 90
    print(f"{len(other_key)} settings change the key, {len(same_images)} not a pixel")
    assert {
        "run.seed", "model.num_heads", "model.qk_norm", "diffusion.process", "diffusion.schedule",
        "diffusion.prediction", "sampling.sampler.kind",
        "sampling.sampler.steps", "sampling.guidance.scale", "sampling.guidance.power", "sampling.labels",
        "sampling.guidance.interval", "sampling.precision", "sampling.batch_size",
    } <= set(other_key)  # fmt: skip
    assert {"run.name", "train.images", "evaluation.images", "sampling.actors"} <= set(same_images)


def test_every_setting_of_a_flow_s_samples_is_in_their_key(tmp_path: Path) -> None:
    def flow(**diffusion: Any) -> ExperimentConfig:
        return tiny(
            tmp_path, "data", model={"input_size": 8, "patch_size": 2}, sampling={"sampler": {"steps": 3}},
            diffusion={"process": "flow", "prediction": "velocity", **diffusion},
        )  # fmt: skip

    first = flow()
    tested = model_of(first)
    expected, _ = ImageSampler(first, tested.model, None).sample(list(range(8)))
    for change in ({"prediction": "v"}, {"prediction": "x"}, {"time_shift": 3.0}):
        config = flow(**change)
        assert name_of(config, tested) != name_of(first, tested), change
        assert not torch.equal(ImageSampler(config, tested.model, None).sample(list(range(8)))[0], expected)
    for change in ({"schedule": "vp_linear"}, {"time": "logit_normal"}, {"loss_weight": "edm"}):
        config = flow(**change)
        assert name_of(config, tested) == name_of(first, tested), change
        assert torch.equal(ImageSampler(config, tested.model, None).sample(list(range(8)))[0], expected)


def test_what_was_sampled_before_there_were_flows_is_found_again(tmp_path: Path) -> None:
    config = tiny(tmp_path, "data")
    DiMR(config.model).save_pretrained(tmp_path / "exported")
    protocol = sample_protocol(config, load_model_under_test(str(tmp_path / "exported"), config), None)
    assert list(protocol) == [
        "version", "weights", "images_seen", "sampler", "guidance", "schedule", "prediction", "labels",
        "seed", "vae", "scaling_factor", "precision", "tf32", "batch_size", "rounding",
    ]  # fmt: skip
    assert list(protocol["sampler"]) == ["kind", "steps"]
    assert list(protocol["weights"]["network"]) == [
        "input_size", "channels", "num_classes", "depths", "widths", "num_heads", "patch_size",
        "time_conditioning", "class_conditioning", "has_null_class", "mlp", "coarsest_blocks", "cascade",
        "cascade_join", "branch_skips",
    ]  # fmt: skip


def test_the_scaling_factor_and_the_judges_are_part_of_the_key(tmp_path: Path) -> None:
    config = base(tmp_path)
    tested = model_of(config)
    first, second = (sample_protocol(config, tested, factor) for factor in (0.18, 0.13))
    judges: list[dict[str, Any]] = [
        {},
        {"extractors": [{"sha256": "a"}]},
        {"classifier": {"sha256": "a"}},
        {"save": ("parquet",)},
    ]
    names = {samples_name(protocol, **judge) for protocol in (first, second) for judge in judges}
    assert len(names) == 8


def test_a_released_file_with_another_number_of_heads_has_another_key(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = tiny(tmp_path, "data", model={"widths": [8, 8], "num_heads": 2})
    DiMR(config.model).save_pretrained(tmp_path / "exported")
    two = load_model_under_test(str(tmp_path / "exported"), config)
    heads = dataclasses.replace(config.model, num_heads=4)
    four = dataclasses.replace(two, weights=two.weights | {"network": dataclasses.asdict(heads)})
    assert two.weights["network"]["num_heads"] == 2
    assert name_of(config, two) != name_of(config, four)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LatentDataset:
    return write_numbered(tmp_path_factory.mktemp("data") / "numbered", 60, 10, size=4)


def test_another_number_of_samples_needs_no_real_image_again(
    tmp_path: Path, data: LatentDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[str] = []
    work = pipeline.run

    def counting(job: pipeline.Work, what: str, console: Console) -> None:
        if not isinstance(job.images, pipeline.Samples) and job.images.kind == "dataset":
            passes.append(what)
        work(job, what, console)

    monkeypatch.setattr(pipeline, "run", counting)
    found = {
        images: load_baselines(
            tiny(tmp_path, data.path, model={"input_size": 4}, evaluation={"images": images}), data, SILENT
        )[0]
        for images in (6, 12, 5000)
    }
    assert passes == ["reference"]
    assert [one.held_out.about["images"] for one in found.values()] == [6, 12, 12]
    assert len({one.real.sha256 for one in found.values()}) == 1
    few, all_of_them = found[6].held_out.target.features, found[12].held_out.target.features
    assert few is not None and all_of_them is not None and np.array_equal(few, all_of_them[:6])
    assert np.allclose(found[6].held_out.target.gaussian.mean, few.mean(axis=0), atol=1e-6)


def test_held_out_images_are_in_their_random_order(tmp_path: Path, data: LatentDataset) -> None:
    config = tiny(tmp_path, data.path, model={"input_size": 4}, evaluation={"images": 5})
    (found,) = load_baselines(config, data, SILENT)
    held_out, whole = found.held_out.target.features, found.real
    assert held_out is not None and len(held_out_order(60)) == 12 and whole.about["images"] == 48
    # The features of image i, made alone, are those at its place in the order.
    images = baselines.dataset_images(data, config)
    reader = pipeline.ImageReader(images, config)
    columns = [reader.read(piece) for piece in images.ranges]
    pixels = np.concatenate([c["image"] for c in columns])
    index = np.concatenate([c["index"] for c in columns])
    from orchestrator.scoring.extractors import load_extractor

    extract = load_extractor(config.evaluation, "efficientnet_lite0", use_gpu=False)
    for place, image in enumerate(held_out_order(60)[:5]):
        alone = extract(torch.from_numpy(pixels[index == image]))["features"].numpy()
        assert np.allclose(held_out[place], alone[0], atol=1e-4)


def test_another_dataset_s_classifier_judges_anew(tmp_path: Path) -> None:
    data = write_numbered(tmp_path / "data", 60, 10, size=8)
    other = write_numbered(tmp_path / "other", 66, 10, size=8)
    folders = set()
    for number, dataset in enumerate((data, other, data)):
        config = tiny(
            tmp_path, dataset.path, model={"input_size": 8},
            evaluation={"images": 6, "class_agreement": True, "reference": data.path},
        )  # fmt: skip
        result = evaluate(Evaluation(config, model_of(config), dataset, SILENT))
        folders.add(result.samples.folder)
        agreement = next(m for m in result.measurements if m.metric == "class_agreement")
        assert agreement.protocol["classifier"] == load_classifier(config, dataset).about, number
    assert len(folders) == 2


def test_a_vae_is_known_by_its_content_or_its_revision(tmp_path: Path) -> None:
    for name in ("here", "elsewhere/here", "other"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "weights.safetensors").write_bytes(b"two" if name == "other" else b"one")
    described = [
        describe_vae(tiny(tmp_path, "data", sampling={"vae": str(tmp_path / name)}))
        for name in ("here", "elsewhere/here", "other")
    ]
    assert described[0] == described[1] != described[2]
    hub = [
        describe_vae(tiny(tmp_path, "data", sampling={"vae": "org/vae"}, prepare={"vae_revision": revision}))
        for revision in (None, "abc")
    ]
    assert hub == [{"name": "org/vae", "revision": "main"}, {"name": "org/vae", "revision": "abc"}]


def test_latents_are_not_decoded_by_another_revision(tmp_path: Path) -> None:
    info = DatasetInfo(
        kind="moments", shape=(2, 2, 2), source="", num_images=1, class_names=("0", "1", "2"),
        encoder="org/vae", encoder_revision="abc",
    )  # fmt: skip

    def config(revision: str | None) -> ExperimentConfig:
        return tiny(
            tmp_path, "data", sampling={"vae": "org/vae"}, prepare={"vae_revision": revision},
        )  # fmt: skip

    check_model(config("abc"), info)
    with pytest.raises(UserError, match="--prepare.vae_revision"):
        check_model(config(None), info)

"""Collections of encoded images become datasets of pixels or latents.

Skipped files are reported, and a stopped preparation is continued.
"""

import dataclasses
import io
import json
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from diffusers import AutoencoderKL
from PIL import Image

from orchestrator.config.plain import to_yaml
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data import encode
from orchestrator.data.compatibility import check_model
from orchestrator.data.format import LatentDataset, open_dataset, read_rows, to_arrays
from orchestrator.data.prepare import prepare_dataset
from orchestrator.data.sources.decode import centre_crop
from orchestrator.data.verify import verify
from orchestrator.errors import UserError
from tests.configs import tiny
from tests.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("ray_session")

CLASSES = ("apple", "pear", "plum")
COUNT = 150


def picture(index: int) -> Image.Image:
    """An image whose grey says its index, larger than needed and not square."""
    return Image.new("RGB", (40 + index % 3, 36), (index, 255 - index, 100))


def png(index: int) -> bytes:
    stream = io.BytesIO()
    picture(index).save(stream, format="PNG")
    return stream.getvalue()


def write_image_folder(folder: Path, count: int = COUNT) -> Path:
    for index in range(count):
        place = folder / CLASSES[index % 3]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{index:04d}.png").write_bytes(png(index))
    return folder


def config(tmp_path: Path, source: str, path: Path, name: str = "data", **sections: Any) -> ExperimentConfig:
    base = {
        "data": {"path": str(tmp_path / name), "source": source, "source_path": str(path), "lanes": 4},
        "model": {
            "input_size": 16, "channels": 3, "num_classes": 3, "depths": [1, 1], "widths": [8, 8],
            "num_heads": 2,
        },
        "prepare": {"use_gpu": False},
    }  # fmt: skip
    for section, values in sections.items():
        base[section] = {**base.get(section, {}), **values}
    return tiny(tmp_path, str(tmp_path / name), **base)


def rows_of(dataset: LatentDataset) -> dict[tuple[int, bool], tuple[int, Any]]:
    """The rows as a map: (index, flipped) -> (label, array)."""
    rows = {}
    for table in read_rows(dataset, 512):
        columns = (table[name].to_pylist() for name in ("label", "index", "flipped"))
        for array, label, index, flipped in zip(to_arrays(dataset.info, table), *columns, strict=True):
            assert (index, flipped) not in rows
            rows[index, flipped] = (label, array)
    return rows


def contents(dataset: LatentDataset) -> list[bytes]:
    return [(Path(dataset.path) / file.name).read_bytes() for file in dataset.files]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "CHUNK_ROWS", 8)
    monkeypatch.setattr(encode, "PART_CHUNKS", 4)


def noted_writes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the parts that are written from now on."""
    written: list[str] = []
    real = encode.write_file

    def write_and_note(path: str, name: str, *rest: Any) -> Any:
        written.append(name)
        return real(path, name, *rest)

    monkeypatch.setattr(encode, "write_file", write_and_note)
    return written


def test_an_image_folder_becomes_pixels_in_class_order(tmp_path: Path) -> None:
    dataset = prepare_dataset(config(tmp_path, "image_folder", write_image_folder(tmp_path / "images")))
    assert dataset.info.class_names == CLASSES
    assert dataset.info.shape == (3, 16, 16)
    rows = rows_of(dataset)
    assert len(rows) == COUNT
    # The listing is sorted by path: all apples first.
    for (index, _), (label, array) in rows.items():
        source = 3 * (index - 50 * label) + label
        assert label == index // 50
        assert np.array_equal(array, np.asarray(centre_crop(picture(source), 16)).transpose(2, 0, 1))


def write_tar(folder: Path) -> Path:
    folder.mkdir()
    for shard in range(2):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for index in range(shard, 30, 2):
                for name, content in (
                    (f"{index:03d}.png", png(index)),
                    (f"{index:03d}.cls", str(index % 3).encode()),
                ):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return folder


def write_parquet(folder: Path) -> Path:
    folder.mkdir()
    images = [{"bytes": png(index), "path": None} for index in range(30)]
    table = pa.table({"image": images, "label": [index % 3 for index in range(30)]})
    pq.write_table(table, folder / "images.parquet", row_group_size=7)
    return folder


@pytest.mark.parametrize(("source", "write"), [("tar", write_tar), ("parquet", write_parquet)])
def test_shards_hold_the_same_images(source: str, write: Any, tmp_path: Path) -> None:
    dataset = prepare_dataset(config(tmp_path, source, write(tmp_path / "shards")))
    rows = rows_of(dataset)
    assert len(rows) == 30
    assert {int(array[0, 0, 0]) for _, array in rows.values()} == set(range(30))
    assert all(int(array[0, 0, 0]) % 3 == label for label, array in rows.values())


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = AutoencoderKL(
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("vae")
    model.save_pretrained(folder)
    return folder


LATENT = {"input_size": 8, "channels": 4}


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory, vae: Path, ray_session: None) -> ExperimentConfig:
    """The config of a dataset of latents, which is prepared."""
    folder = tmp_path_factory.mktemp("latents")
    settings = {"model": LATENT, "sampling": {"vae": str(vae)}}
    images = write_image_folder(folder / "images", 20)
    prepared = config(folder, "image_folder", images, **settings)
    prepare_dataset(prepared)
    return prepared


def test_latents_are_the_vae_s_moments_of_image_and_mirror_image(
    latents: ExperimentConfig, vae: Path
) -> None:
    dataset = open_dataset(latents.data.path)
    assert (dataset.info.kind, dataset.info.shape, dataset.info.flips) == ("moments", (8, 8, 8), True)
    assert dataset.info.scaling_factor == pytest.approx(0.18215)
    assert dataset.info.encoder_revision is not None
    assert dataset.info.encoder_revision.startswith("sha256:")
    rows = rows_of(dataset)
    assert len(rows) == 40
    model = AutoencoderKL.from_pretrained(vae).eval()
    first = np.asarray(centre_crop(picture(0), 16)).transpose(2, 0, 1)  # the first apple
    pixels = torch.from_numpy(first.copy()).float()[None] / 127.5 - 1
    for flipped in (False, True):
        with torch.no_grad():
            expected = model.encode(pixels.flip(-1) if flipped else pixels).latent_dist.parameters[0]
        np.testing.assert_allclose(rows[0, flipped][1], expected.numpy(), atol=2e-2)


def test_latents_of_another_vae_are_refused(tmp_path: Path, latents: ExperimentConfig, vae: Path) -> None:
    info = open_dataset(latents.data.path).info
    check_model(latents, info)
    other = tmp_path / "other"
    shutil.copytree(vae, other)
    for file in other.glob("*.safetensors"):
        file.write_bytes(file.read_bytes() + b" ")
    for name in (str(other), "some/hub-vae"):
        elsewhere = dataclasses.replace(latents, sampling=dataclasses.replace(latents.sampling, vae=name))
        if name == "some/hub-vae":
            info = dataclasses.replace(info, encoder="another/vae", encoder_revision="main")
        with pytest.raises(UserError, match="which is another"):
            check_model(elsewhere, info)


KILLED_WHILE_WRITING = """
import os, signal, sys
import ray, yaml
from orchestrator.config.plain import from_dict
from orchestrator.data import encode
from orchestrator.data.prepare import prepare_dataset

ray.init(address=sys.argv[1])
encode.CHUNK_ROWS, encode.PART_CHUNKS = 8, 4
real, written = encode.write_file, []

def write(path, name, table, row_group_rows):
    if len(written) == 2:
        with open(f"{path}/.{name}.{os.getpid()}.writing", "wb") as stream:
            stream.write(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(name)
    return real(path, name, table, row_group_rows)

encode.write_file = write
prepare_dataset(from_dict(yaml.safe_load(sys.argv[2])))
"""


@pytest.mark.faults
def test_killed_anywhere_and_with_more_actors_it_is_the_same_dataset(
    tmp_path: Path, vae: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_image_folder(tmp_path / "images")
    settings = {"model": LATENT, "sampling": {"vae": str(vae)}}
    whole = prepare_dataset(config(tmp_path, "image_folder", images, "whole", **settings))
    assert len(whole.files) == 5
    again = config(
        tmp_path, "image_folder", images, "again", **settings, prepare={"actors": 2, "use_gpu": False}
    )

    # Another process on the same Ray, which the kernel kills in the middle of writing the third file.
    address = ray.get_runtime_context().gcs_address
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_WRITING, address, to_yaml(again)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert sorted(file.name for file in Path(again.data.path).glob("*.parquet")) == [
        "part-00000.parquet", "part-00001.parquet",
    ]  # fmt: skip
    with pytest.raises(UserError, match="There is no dataset"):
        open_dataset(again.data.path)
    continued = noted_writes(monkeypatch)
    resumed = prepare_dataset(again)
    assert len(continued) == 3
    assert contents(resumed) == contents(whole)
    assert resumed.fingerprint == whole.fingerprint


def test_undecodable_images_are_skipped_listed_and_limited(tmp_path: Path) -> None:
    images = write_image_folder(tmp_path / "images", 60)
    (images / "pear" / "0001.png").write_bytes(png(1)[:40])
    (images / "plum" / "0002.png").write_bytes(b"")
    strict = config(tmp_path, "image_folder", images, "strict", prepare={"max_skipped": 0.02})
    with pytest.raises(
        UserError, match=r"(?s)2 of 60 images cannot be stored \(2 undecodable\).*raise --prepare.max_skipped"
    ):
        prepare_dataset(strict)
    dataset = prepare_dataset(config(tmp_path, "image_folder", images, "lax", prepare={"max_skipped": 0.1}))
    assert dataset.num_rows == 58
    skipped = json.loads((Path(dataset.path) / "skipped.json").read_text())
    assert sorted(Path(line.split(":")[0]).name for line in skipped) == ["0001.png", "0002.png"]


def test_released_features_are_imported_without_running_what_they_pickle(
    tmp_path: Path, vae: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "features"
    folder.mkdir()
    for index in range(12):
        pair = np.empty(2, dtype=object)
        pair[:] = [np.full((8, 8, 8), index, np.float32), index % 3]
        np.save(folder / f"{index}.npy", pair)
    settings = {"model": LATENT, "sampling": {"vae": str(vae)}}
    dataset = prepare_dataset(config(tmp_path, "released_npy", folder, **settings))
    rows = rows_of(dataset)
    assert sorted((int(array[0, 0, 0]), label) for label, array in rows.values()) == [
        (i, i % 3) for i in range(12)
    ]

    class Evil:
        def __reduce__(self) -> Any:
            return print, ("ran",)

    bad = np.empty(2, dtype=object)
    bad[:] = [Evil(), 1]
    with open(folder / "0.npy", "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": (2,)})
        pickle.dump(bad, stream)
    with pytest.raises(UserError, match=r"it wants to run \S+print\b"):
        prepare_dataset(config(tmp_path, "released_npy", folder, "evil", **settings))
    assert "ran" not in capfd.readouterr().out


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.png").write_bytes(png(0))
    (tmp_path / "empty").mkdir()
    for source, path, message in (
        ("image_folder", tmp_path / "flat", "outside of class folders"),
        ("image_folder", tmp_path / "empty", "holds no images"),
        ("tar", tmp_path / "none", "There is no folder"),
    ):
        with pytest.raises(UserError, match=message):
            prepare_dataset(config(tmp_path, source, path))


def test_a_mended_image_is_taken_in_and_only_its_part_made_again(
    tmp_path: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_image_folder(tmp_path / "images", 60)
    good = (images / "pear" / "0001.png").read_bytes()
    (images / "pear" / "0001.png").write_bytes(good[:40])
    lax = config(tmp_path, "image_folder", images, prepare={"max_skipped": 0.1})
    first = prepare_dataset(lax)
    assert first.account is not None and (first.account.found, first.account.stored) == (60, 59)
    verify(first.path)
    (Path(first.path) / "dataset.json").unlink()
    (images / "pear" / "0001.png").write_bytes(good)
    written = noted_writes(monkeypatch)
    again = prepare_dataset(lax)
    assert len(written) == 1
    assert again.account is not None and again.account.listed == {} and again.num_rows == 60
    assert json.loads((Path(again.path) / "skipped.json").read_text()) == []
    verify(again.path)


def test_a_source_that_has_changed_is_not_mixed_with_what_it_was(tmp_path: Path, small_parts: None) -> None:
    images = write_image_folder(tmp_path / "images", 60)
    settings = config(tmp_path, "image_folder", images)
    dataset = prepare_dataset(settings)
    (Path(dataset.path) / "dataset.json").unlink()
    (Path(dataset.path) / "part-00001.parquet").unlink()
    (images / "apple" / "0000.png").rename(images / "plum" / "9999.png")  # as many as before
    with pytest.raises(UserError, match="another source or with other settings.*delete"):
        prepare_dataset(settings)


def test_verify_counts_what_is_stored_and_listed(tmp_path: Path) -> None:
    images = write_image_folder(tmp_path / "images", 30)
    (images / "plum" / "notes.txt").write_text("no image")
    dataset = prepare_dataset(config(tmp_path, "image_folder", images))
    assert dataset.account is not None
    assert (dataset.account.found, dataset.account.listed) == (31, {"not an image": 1})
    for change, said in (({"stored": 29}, "That is not equal"), ({"found": 30, "listed": {}}, "names 1 and")):
        file = Path(dataset.path) / "dataset.json"
        whole = json.loads(file.read_text())
        file.write_text(json.dumps({**whole, "account": {**whole["account"], **change}}))
        with pytest.raises(UserError, match=said):
            verify(dataset.path)
        file.write_text(json.dumps(whole))


def test_latents_that_are_not_finite_are_listed(tmp_path: Path, vae: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(vae, broken)
    model = AutoencoderKL.from_pretrained(broken)
    with torch.no_grad():
        model.encoder.conv_in.weight.mul_(1e30)  # as half precision overflows in some VAEs
    model.save_pretrained(broken)
    settings = {"model": LATENT, "sampling": {"vae": str(broken)}}
    images = write_image_folder(tmp_path / "images", 9)
    with pytest.raises(UserError, match=r"9 of 9 images cannot be stored \(9 not finite\)"):
        prepare_dataset(config(tmp_path, "image_folder", images, **settings))


def test_features_of_several_processes_kinds_and_faults(tmp_path: Path, vae: Path) -> None:
    folder = tmp_path / "features"
    for number in range(6):
        pair = np.empty(2, dtype=object)
        moments = np.full((8 if number % 2 else 4, 8, 8), number, np.float32)
        if number == 5:
            moments[0, 0, 0] = np.nan
        pair[:] = [moments, number % 3]
        place = folder / f"rank{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        np.save(place / f"{number // 2}.npy", pair)  # equal names in two folders
    settings = {"model": LATENT, "sampling": {"vae": str(vae)}, "prepare": {"max_skipped": 0.5}}
    dataset = prepare_dataset(config(tmp_path, "released_npy", folder, **settings))
    assert dataset.account is not None
    assert (dataset.account.stored, dataset.account.listed) == (5, {"not finite": 1})
    rows = rows_of(dataset)
    assert sorted((int(a[0, 0, 0]), label, float(a[7, 0, 0])) for label, a in rows.values()) == [
        (n, n % 3, float(n) if n % 2 else -30.0) for n in range(5)
    ]


def test_features_of_fast_dit_are_scaled_back(tmp_path: Path, vae: Path) -> None:
    root = tmp_path / "store"
    for number in range(5):
        latents = np.full((1, 4, 8, 8), number * 0.18215, np.float32)
        for kind, array in (("features", latents), ("labels", np.array([number % 3]))):
            (root / f"imagenet256_{kind}").mkdir(parents=True, exist_ok=True)
            np.save(root / f"imagenet256_{kind}" / f"{number}.npy", array)
    (root / "imagenet256_labels" / "3.npy").unlink()
    settings = {"model": LATENT, "sampling": {"vae": str(vae)}, "prepare": {"max_skipped": 0.5}}
    dataset = prepare_dataset(config(tmp_path, "fast_dit", root, **settings))
    assert dataset.account is not None and dataset.account.listed == {"without label": 1}
    found = sorted((float(array[0, 0, 0]), label) for label, array in rows_of(dataset).values())
    assert found == [(0, 0), (1, 1), (2, 2), (4, 1)]

"""A run goes on although what it takes from elsewhere was moved, and not where its content has changed."""

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dimr_model import DiMR
from orchestrator import storage
from orchestrator.checkpoints.selection import Checkpoint, Marker
from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import UserError
from orchestrator.run.folder import open_run
from orchestrator.run.inputs import INPUTS_FILE
from tests.configs import tiny


def statistics(path: Path, content: str) -> None:
    path.write_text(content)


def images(path: Path, content: str) -> None:
    (path / "class").mkdir(parents=True, exist_ok=True)
    (path / "class" / f"{content}.png").write_text(content)


def dataset(path: Path, content: str) -> None:
    path.mkdir(exist_ok=True)
    (path / "dataset.json").write_text(content)
    (path / f"{os.urandom(4).hex()}.txt").touch()  # What lies beside it does not count.


def vae(path: Path, content: str) -> None:
    path.mkdir(exist_ok=True)
    (path / "diffusion_pytorch_model.safetensors").write_text(content)


def exported(path: Path, content: str) -> None:
    torch.manual_seed(len(content))
    DiMR(tiny(path, "data").model).save_pretrained(path)


def trained(path: Path, content: str) -> None:
    images_seen = 8 * len(content)
    Marker({}, {"loss": float(images_seen)}).write(
        Checkpoint(str(path / "checkpoints" / str(images_seen)), images_seen)
    )


Write = Callable[[Path, str], None]
KINDS: list[tuple[str, str, Write]] = [
    ("evaluation", "reference", statistics), ("evaluation", "reference", images),
    ("evaluation", "reference", dataset), ("sampling", "vae", vae), ("train", "init_from", exported),
    ("train", "init_from", trained),
]  # fmt: skip


def with_input(root: Path, section: str, name: str, path: Any) -> ExperimentConfig:
    return tiny(root, "data", **{section: {name: None if path is None else str(path)}})


@pytest.mark.parametrize(("section", "name", "write"), KINDS)
def test_what_was_moved_is_known_again(tmp_path: Path, section: str, name: str, write: Write) -> None:
    here, there, other = (tmp_path / place for place in ("here", "there", "other"))
    write(here, "one")
    write(other, "another")
    open_run(with_input(tmp_path, section, name, here), "data")
    shutil.move(here, there)
    open_run(with_input(tmp_path, section, name, there), "data")
    for changed in (other, None):
        with pytest.raises(UserError, match=f"{section}.{name} .was {there}"):
            open_run(with_input(tmp_path, section, name, changed), "data")
    open_run(with_input(tmp_path, section, name, there), "data")


@pytest.mark.parametrize(("section", "name", "write"), [k for k in KINDS if k[0] != "train"])
def test_another_content_at_the_same_place_is_refused(
    tmp_path: Path, section: str, name: str, write: Write
) -> None:
    write(tmp_path / "here", "one")
    config = with_input(tmp_path, section, name, tmp_path / "here")
    open_run(config, "data")
    write(tmp_path / "here", "another")
    with pytest.raises(UserError, match="holds something else"):
        open_run(config, "data")


def test_the_run_that_weights_came_from_may_go_on_or_be_deleted(tmp_path: Path) -> None:
    trained(tmp_path / "first", "one")
    config = with_input(tmp_path, "train", "init_from", tmp_path / "first")
    open_run(config, "data")
    trained(tmp_path / "first", "longer")
    open_run(config, "data")
    shutil.rmtree(tmp_path / "first")
    open_run(config, "data")


def test_nothing_is_hashed_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statistics(tmp_path / "real.npz", "one")
    config = with_input(tmp_path, "evaluation", "reference", tmp_path / "real.npz")
    hashed: list[str] = []
    hash_of = storage.sha256_of
    monkeypatch.setattr(storage, "sha256_of", lambda path: hashed.append(path) or hash_of(path))
    open_run(config, "data")
    open_run(config, "data")
    assert hashed == [str(tmp_path / "real.npz")]


def test_settings_of_a_preparation_that_is_done_may_change(tmp_path: Path) -> None:
    open_run(tiny(tmp_path, "data"), "data")
    prepare = {"actors": 3, "flips": False, "max_skipped": 0.1, "precision": "bf16", "use_gpu": False}
    open_run(tiny(tmp_path, "data", prepare=prepare), "data")
    # The VAE's revision is no such setting where there is one.
    open_run(tiny(tmp_path / "hub", "data", sampling={"vae": "org/vae"}), "data")
    revised = tiny(tmp_path / "hub", "data", sampling={"vae": "org/vae"}, prepare={"vae_revision": "abc"})
    with pytest.raises(UserError, match="sampling.vae"):
        open_run(revised, "data")


def test_a_run_of_older_code_goes_on(tmp_path: Path) -> None:
    statistics(tmp_path / "real.npz", "one")
    config = with_input(tmp_path, "evaluation", "reference", tmp_path / "real.npz")
    open_run(config, "data")
    (Path(config.directory) / INPUTS_FILE).unlink()
    open_run(config, "data")
    statistics(tmp_path / "other.npz", "another")
    (Path(config.directory) / INPUTS_FILE).unlink()
    with pytest.raises(UserError, match="evaluation.reference"):
        open_run(with_input(tmp_path, "evaluation", "reference", tmp_path / "other.npz"), "data")


def test_the_seed_may_not_change(tmp_path: Path) -> None:
    config = tiny(tmp_path, "data")
    open_run(config, "data")
    with pytest.raises(UserError, match="run.seed .was 0, now 1"):
        open_run(dataclasses.replace(config, run=dataclasses.replace(config.run, seed=1)), "data")

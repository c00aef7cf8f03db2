"""The presets named after the paper's models are the paper's models."""

import dataclasses

import pytest

from dimr_model import VARIANTS
from orchestrator.config.command_line import parse
from orchestrator.config.plain import flatten
from orchestrator.config.presets import PRESETS, protocol_names

PAPER = {
    "imagenet64_m3r": "M/3R-64",
    "imagenet64_l3r": "L/3R-64",
    "imagenet256_xl2r": "XL/2R-256",
    "imagenet256_g2r": "G/2R-256",
    "imagenet512_xl3r": "XL/3R-512",
}


@pytest.mark.parametrize(("name", "variant"), PAPER.items())
def test_paper_presets_hold_the_papers_models(name: str, variant: str) -> None:
    config = parse("Test.", name, [])
    assert config.model == VARIANTS[variant]
    assert config.sampling.sampler.kind == "released"
    at_64 = variant.endswith("-64")
    assert (config.diffusion.schedule, config.diffusion.class_dropout) == (
        ("vp_linear", 0) if at_64 else ("scaled_linear", 0.1)
    )
    assert (config.sampling.vae is None) == at_64


def test_the_modern_preset_is_the_paper_s_network_with_another_recipe() -> None:
    modern, paper = parse("Test.", "imagenet256_xl2r_modern", []), parse("Test.", "imagenet256_xl2r", [])
    assert dataclasses.replace(modern.model, qk_norm=False) == paper.model
    before, now = flatten(paper), flatten(modern)
    changed = {key for key in now if now[key] != before[key]}
    assert changed == {
        "run.name", "model.qk_norm", "diffusion.process", "diffusion.prediction", "diffusion.time",
        "train.images", "train.optimizer", "train.micro_batches", "train.score_every_images",
        "sampling.sampler.kind", "sampling.sampler.steps",
    }  # fmt: skip
    assert "NOBODY HAS RUN THIS" in (PRESETS / "imagenet256_xl2r_modern.yaml").read_text()


@pytest.mark.parametrize("name", protocol_names())
def test_the_papers_protocols_go_on_top_of_a_preset(name: str) -> None:
    config = parse("Test.", "", ["--config", "imagenet256_g2r", "--config", name])
    assert config.model == VARIANTS["G/2R-256"]
    assert config.evaluation.images == 50_000
    assert config.sampling.sampler.steps == 250
    assert (config.sampling.guidance.kind != "none") == (name == "paper-guided")
    assert config.evaluation.reference == "references/VIRTUAL_imagenet256_labeled.npz"

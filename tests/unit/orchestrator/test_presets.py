"""The presets named after the paper's models are the paper's models."""

import pytest

from dimr_model import VARIANTS
from orchestrator.config_io import parse

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

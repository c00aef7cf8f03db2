"""The pipeline turns class labels into images, with a VAE or without, and is saved like any of diffusers'."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from dimr_model import DiMR, DiMRConfig, DiMRPipeline

PIXELS = DiMRConfig(input_size=8, channels=1, num_classes=3, depths=(1, 1), widths=(8, 8), num_heads=2)


def pixel_pipeline() -> DiMRPipeline:
    torch.manual_seed(0)
    return DiMRPipeline(DiMR(PIXELS), schedule="cosine", prediction="v")


def test_samples_images_of_the_classes_asked_for() -> None:
    pipeline = pixel_pipeline()
    images = pipeline([0, 1, 2, 3], steps=4).images
    assert [image.size for image in images] == [(8, 8)] * 4
    again = pipeline([0, 1], steps=4, output_type="pt").images
    torch.testing.assert_close(again, pipeline([0, 1, 2], steps=4, output_type="pt").images[:2])
    assert not torch.equal(again, pipeline([0, 1], steps=4, seed=1, output_type="pt").images)


def test_saves_and_loads_with_network_and_settings(tmp_path: Path) -> None:
    pipeline = pixel_pipeline()
    pipeline.save_pretrained(tmp_path)
    loaded = DiMRPipeline.from_pretrained(tmp_path)
    assert loaded.config.prediction == "v"
    expected = pipeline([0, 1], steps=3, output_type="pt").images
    assert torch.equal(loaded([0, 1], steps=3, output_type="pt").images, expected)


def test_a_new_process_loads_it_and_samples_the_same(tmp_path: Path) -> None:
    pipeline = pixel_pipeline()
    pipeline.save_pretrained(tmp_path / "pipeline")
    stored = json.loads((tmp_path / "pipeline" / "model_index.json").read_text())
    assert stored["model"] == ["dimr_model", "DiMR"]
    script = (
        "import sys, torch; from dimr_model import DiMRPipeline; "
        "pipeline = DiMRPipeline.from_pretrained(sys.argv[1]); "
        "torch.save(pipeline([0, 1], steps=3, output_type='pt').images, sys.argv[2])"
    )
    loaded = tmp_path / "images.pt"
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "pipeline"), str(loaded)], check=True, timeout=600
    )
    # Not to the last bit: another number of threads adds up in another order.
    expected = pipeline([0, 1], steps=3, output_type="pt").images
    torch.testing.assert_close(torch.load(loaded), expected, rtol=0, atol=1e-5)


def test_latents_go_through_the_vae() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    model = DiMR(dataclasses.replace(PIXELS, channels=4))
    (image,) = DiMRPipeline(model, vae)([1], steps=2, guidance=1).images
    assert image.size == (16, 16)
    assert image.mode == "RGB"


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be in 0\.\.3"):
        pixel_pipeline()([4])
    without = DiMRPipeline(DiMR(dataclasses.replace(PIXELS, has_null_class=False)))
    with pytest.raises(ValueError, match="no null class"):
        without([0])

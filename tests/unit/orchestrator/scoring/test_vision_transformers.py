"""DINOv2 and CLIP give what transformers' networks give with the same weights, which are random here."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

from orchestrator.config.evaluation import EvaluationConfig
from orchestrator.errors import UserError
from orchestrator.scoring import vision_transformers
from orchestrator.scoring.extractors import check_weights, load_extractor
from orchestrator.scoring.vision_transformers import (
    CLIP,
    DINOV2,
    POSITIONS_OFFSET,
    Architecture,
    VisionTransformerExtractor,
    check_tensors,
    resampled,
    under_timms_names,
)

CPU = torch.device("cpu")
# Positions of 5x5 patches, which images of 4x4 or 3x3 patches need resampled.
SMALL_DINOV2 = dataclasses.replace(DINOV2, image_size=56, trained_size=70, width=32, depth=2, heads=2)
SMALL_CLIP = dataclasses.replace(
    CLIP, image_size=56, trained_size=56, width=32, depth=2, heads=2, projection=16
)


def draw(network: torch.nn.Module) -> Any:
    """Weights that all matter, of a size that keeps differences visible."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


@pytest.fixture(scope="module")
def dinov2() -> Any:
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=70, patch_size=14
    )
    return draw(Dinov2Model(config))


@pytest.fixture(scope="module")
def clip() -> Any:
    vision = {
        "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 56, "patch_size": 14,
    }  # fmt: skip
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return draw(CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=16)))


def images(size: int) -> torch.Tensor:
    return torch.randint(0, 256, (5, 3, size, size), generator=torch.Generator().manual_seed(1)).byte()


def normalized(pixels: torch.Tensor, architecture: Architecture) -> torch.Tensor:
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (architecture.mean, architecture.deviation))
    return (pixels.float() / 255 - mean) / deviation


def test_dinov2_is_transformers_own(dinov2: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dinov2.save_pretrained(tmp_path)
    for size in (70, 56):  # without and with resampled positions
        # transformers leaves out the offset of Meta's code.
        monkeypatch.setattr(resampled, "__defaults__", (0.0,))
        ours = VisionTransformerExtractor(
            tmp_path / "model.safetensors", CPU, dataclasses.replace(SMALL_DINOV2, image_size=size)
        )
        found = ours(images(size))["features"]
        with torch.no_grad():
            theirs = dinov2(normalized(images(size), DINOV2)).pooler_output
        torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-5)
    assert found.std() > 0.1


def test_meta_s_own_names_are_read_too(dinov2: Any, tmp_path: Path) -> None:
    dinov2.save_pretrained(tmp_path)
    names = under_timms_names(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    assert {"cls_token", "pos_embed", "blocks.1.attn.qkv.weight", "blocks.0.ls2.gamma", "norm.bias"} <= set(
        names
    )
    assert under_timms_names(names).keys() == names.keys()
    torch.save({**names, "mask_token": torch.zeros(1, 32)}, tmp_path / "dinov2_vitl14_pretrain.pth")
    extractors = [
        VisionTransformerExtractor(tmp_path / name, CPU, SMALL_DINOV2)
        for name in ("model.safetensors", "dinov2_vitl14_pretrain.pth")
    ]
    one, other = (extractor(images(56))["features"] for extractor in extractors)
    assert torch.equal(one, other)


def test_clip_is_transformers_own(clip: Any, tmp_path: Path) -> None:
    torch.save(clip.state_dict(), tmp_path / "pytorch_model.bin")
    found = VisionTransformerExtractor(tmp_path / "pytorch_model.bin", CPU, SMALL_CLIP)(images(56))[
        "features"
    ]
    with torch.no_grad():
        theirs = clip.get_image_features(normalized(images(56), CLIP))
    theirs = theirs if isinstance(theirs, torch.Tensor) else theirs.pooler_output
    torch.testing.assert_close(found, F.normalize(theirs, dim=1), rtol=1e-4, atol=1e-5)
    assert found.shape == (5, 16) and torch.allclose(found.norm(dim=1), torch.ones(5))


def cubic(distance: float) -> float:
    """Keys' kernel with the coefficient -3/4, which torch takes without antialiasing."""
    x, a = abs(distance), -0.75
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def test_positions_are_resampled_with_metas_offset() -> None:
    before, after = 7, 4
    positions = torch.randn(1, 1 + before**2, 3, generator=torch.Generator().manual_seed(2))
    weights = np.zeros((after, before))
    for new in range(after):
        center = (new + 0.5) * before / (after + POSITIONS_OFFSET) - 0.5
        for tap in range(int(np.floor(center)) - 1, int(np.floor(center)) + 3):
            weights[new, min(max(tap, 0), before - 1)] += cubic(center - tap)
    grid = positions[0, 1:].reshape(before, before, 3).double().numpy()
    expected = np.einsum("ia,jb,abc->ijc", weights, weights, grid).reshape(-1, 3)
    found = resampled(positions, after)
    assert torch.equal(found[:, :1], positions[:, :1])
    assert np.allclose(found[0, 1:].numpy(), expected, atol=1e-5)
    assert not np.allclose(resampled(positions, after, offset=0)[0, 1:].numpy(), expected, atol=1e-3)
    assert resampled(positions, before) is positions


def test_images_are_resized_with_antialiasing_and_grey_ones_get_three_channels(
    dinov2: Any, tmp_path: Path
) -> None:
    dinov2.save_pretrained(tmp_path)
    extract = VisionTransformerExtractor(tmp_path / "model.safetensors", CPU, SMALL_DINOV2)
    large = images(112)
    resized = F.interpolate(large.float(), (56, 56), mode="bicubic", antialias=True)
    with torch.no_grad():
        expected = extract._network(normalized(resized, DINOV2))
    torch.testing.assert_close(extract(large)["features"], expected)
    grey = images(56)[:, :1]
    assert torch.equal(extract(grey)["features"], extract(grey.expand(-1, 3, -1, -1))["features"])


def test_the_published_sizes_are_vit_l_14() -> None:
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in one.network().parameters()) for one in (DINOV2, CLIP)]
    # Meta's file of 304,368,640 numbers has positions of 37x37 patches and a mask token.
    assert sizes[0] + (37**2 - 16**2) * 1024 + 1024 == 304_368_640
    assert sizes[1] == 304_293_888


@pytest.mark.parametrize("setting", ["dinov2_weights", "clip_weights", "extractor_weights"])
def test_weights_of_another_network_are_refused_before_anything_is_sampled(
    setting: str, dinov2: Any, tmp_path: Path
) -> None:
    kind = {"extractor_weights": "inception"}.get(setting, setting.removesuffix("_weights"))
    safetensors.torch.save_file({"fc.weight": torch.zeros(3, 2)}, tmp_path / "other.safetensors")
    config = EvaluationConfig(extractors=(kind,), **{setting: str(tmp_path / "other.safetensors")})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=rf"another network than .*tensors differ.*--evaluation.{setting}"):
        check_weights(config)
    (tmp_path / "other.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match="cannot be read as"):
        check_weights(config)


def test_dinov2s_weights_are_not_clips(dinov2: Any, tmp_path: Path) -> None:
    dinov2.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="another network than CLIP: .*norm_pre.weight is missing"):
        check_tensors(tmp_path / "model.safetensors", SMALL_CLIP)
    with pytest.raises(UserError, match="another network than DINOv2"):  # ViT-S and others
        check_tensors(tmp_path / "model.safetensors", DINOV2)


def test_an_extractor_by_its_name(clip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision_transformers, "CLIP", SMALL_CLIP)
    torch.save(clip.state_dict(), tmp_path / "pytorch_model.bin")
    config = EvaluationConfig(extractors=("clip",), clip_weights=str(tmp_path / "pytorch_model.bin"))
    check_weights(config)
    assert load_extractor(config, "clip", use_gpu=False)(images(56))["features"].shape == (5, 16)

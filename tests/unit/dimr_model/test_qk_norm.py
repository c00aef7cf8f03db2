"""Queries and keys with an RMSNorm: logits stay small, and nothing else changes where there is none."""

import dataclasses
from pathlib import Path

import pytest
import torch

from dimr_model import DiMR, DiMRConfig
from dimr_model.blocks import SelfAttention

CONFIG = DiMRConfig(
    input_size=8, channels=1, num_classes=3, depths=(3, 1), widths=(16, 8), num_heads=2, qk_norm=True
)


def test_each_head_s_queries_and_keys_have_a_root_mean_square_of_one() -> None:
    torch.manual_seed(0)
    plain, normed = SelfAttention(16, 2), SelfAttention(16, 2, qk_norm=True)
    normed.load_state_dict(plain.state_dict(), strict=False)
    tokens = torch.randn(2, 5, 16)
    qkv = plain.qkv(tokens).view(2, 5, 3, 2, 8).permute(2, 0, 3, 1, 4)
    query, key = (part / part.square().mean(-1, keepdim=True).sqrt() for part in qkv[:2])
    weights = (query @ key.transpose(-1, -2) / 8**0.5).softmax(-1)
    expected = plain.out((weights @ qkv[2]).transpose(1, 2).reshape(2, 5, 16))
    torch.testing.assert_close(normed(tokens), expected)
    assert not torch.allclose(plain(tokens), expected)


def test_logits_are_bounded_whatever_the_weights() -> None:
    torch.manual_seed(0)
    normed = SelfAttention(16, 2, qk_norm=True)
    tokens = torch.randn(2, 5, 16)
    expected = normed(tokens)
    with torch.no_grad():
        normed.qkv.weight[:32] *= 1e6
    torch.testing.assert_close(normed(tokens), expected, rtol=1e-4, atol=1e-5)


def test_the_network_is_saved_loaded_and_computed_as_released(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = DiMR(CONFIG).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "query_norm" in name or "key_norm" in name:
                parameter.normal_(1, 0.3)
    model.save_pretrained(tmp_path)
    loaded = DiMR.from_pretrained(tmp_path)
    assert loaded.architecture == CONFIG
    noisy, level, labels = torch.randn(2, 1, 8, 8), torch.tensor([-2.0, 3.0]), torch.tensor([0, 3])
    for one, other in zip(model(noisy, level, labels), loaded(noisy, level, labels), strict=True):
        assert torch.equal(one, other)
    released = loaded.compute_as_released()(noisy, level, labels)[-1]
    torch.testing.assert_close(released, model(noisy, level, labels)[-1], rtol=1e-4, atol=1e-5)


def test_without_it_a_network_has_the_weights_that_it_had() -> None:
    states = []
    for qk_norm in (False, True):
        torch.manual_seed(0)
        states.append(DiMR(dataclasses.replace(CONFIG, qk_norm=qk_norm)).state_dict())
    plain, normed = states
    added = {
        f"branches.0.blocks.{n}.attention.{kind}_norm.scale" for n in range(3) for kind in ("query", "key")
    }
    assert set(normed) - set(plain) == added and set(plain) < set(normed)
    assert all(torch.equal(plain[name], normed[name]) for name in plain)


def test_convolutions_have_none() -> None:
    with pytest.raises(ValueError, match="qk_norm needs coarsest_blocks transformer"):
        dataclasses.replace(CONFIG, coarsest_blocks="convnext", class_conditioning="added")


def test_gradients_are_those_of_plain_operators() -> None:
    torch.manual_seed(0)
    model = DiMR(CONFIG)
    noisy, level, labels = torch.randn(2, 1, 8, 8), torch.tensor([-2.0, 3.0]), torch.tensor([0, 3])

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        model(noisy, level, labels)[-1].square().mean().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    ours, plain = gradients(), (model.compute_as_released(), gradients())[1]
    norms = [name for name in ours if "query_norm" in name or "key_norm" in name]
    assert len(norms) == 6 and ours.keys() == plain.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-4, atol=1e-6, msg=name)
    assert all(ours[name].abs().max() > 0 for name in norms)

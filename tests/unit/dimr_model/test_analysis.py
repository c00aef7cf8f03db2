"""Principal components of AdaLN-Zero's scales and shifts, of our networks and of diffusers' DiT."""

from pathlib import Path

import pytest
import torch
from diffusers import DiTTransformer2DModel
from PIL import Image

from dimr_model import DiMR, DiMRConfig
from dimr_model.analysis import collect_dimr, collect_dit, explained_variance, main, shown_depths

CONFIG = DiMRConfig(
    input_size=8, channels=1, num_classes=6, depths=(3, 1), widths=(16, 8), num_heads=2,
    time_conditioning="adaln_zero", class_conditioning="adaln_zero",
)  # fmt: skip
STEPS, LABELS = torch.tensor([1000.0, 500.0, 1.0]), torch.tensor([0, 4])


@pytest.fixture
def model() -> DiMR:
    torch.manual_seed(0)
    network = DiMR(CONFIG)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network.eval()


@pytest.fixture
def dit() -> DiTTransformer2DModel:
    torch.manual_seed(0)
    return DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=1, num_layers=2, sample_size=4, patch_size=2,
        num_embeds_ada_norm=6, norm_num_groups=1,
    ).eval()  # fmt: skip


def test_explained_variance_of_known_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    coefficients = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(7, 2, generator=generator, dtype=torch.float64))[0]
    shares = explained_variance(coefficients @ basis.T + 3)
    assert float(shares[:2].sum()) == pytest.approx(1)
    expected = torch.linalg.eigvalsh(torch.cov(coefficients.T)).flip(0)
    torch.testing.assert_close(shares[:2], expected / expected.sum())
    assert explained_variance(torch.ones(4, 3)).tolist() == [0, 0, 0]


def test_collects_what_the_blocks_use_while_sampling(model: DiMR) -> None:
    seen = []
    block = model.branches[0].blocks[1]
    block.adaln.register_forward_hook(lambda module, inputs, output: seen.append(output))
    noisy = torch.randn(2, 1, 8, 8)
    model(noisy, torch.full((2,), 500 / 1000 * 8 - 4), LABELS)
    collected = collect_dimr(model, STEPS, LABELS)[1]
    for place, name in ((0, "scale"), (1, "shift")):
        for sublayer in (0, 1):
            rows = collected[f"{name} {sublayer + 1}"][2:4]
            torch.testing.assert_close(rows, seen[0][sublayer].modulation[place], rtol=1e-5, atol=1e-5)


def test_collects_what_a_dit_uses(dit: DiTTransformer2DModel) -> None:
    seen = []
    dit.transformer_blocks[1].norm1.linear.register_forward_hook(
        lambda module, inputs, output: seen.append(output)
    )
    with torch.no_grad():
        dit(torch.randn(2, 1, 4, 4), timestep=torch.tensor([499, 499]), class_labels=LABELS)
    collected = collect_dit(dit, STEPS, LABELS)[1]
    shift1, scale1, _, shift2, scale2, _ = seen[0].chunk(6, dim=1)
    used = {"scale 1": scale1, "scale 2": scale2, "shift 1": shift1, "shift 2": shift2}
    for name, rows in used.items():
        torch.testing.assert_close(collected[name][2:4], rows, rtol=1e-5, atol=1e-5)


def test_depths_are_quarters_as_in_the_paper() -> None:
    assert shown_depths(28) == [7, 14, 21, 28]
    assert shown_depths(3) == [1, 2, 3]
    assert shown_depths(1) == [1]


@pytest.mark.parametrize("kind", ["model", "dit"])
def test_command_plots_any_of_both(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    request.getfixturevalue(kind).save_pretrained(tmp_path)
    output = tmp_path / "plot.png"
    main([str(tmp_path), "--steps", "10", "--output", str(output)])
    assert Image.open(output).size[0] > 500


def test_command_refuses_what_has_no_adaln(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DiMR(input_size=4, channels=1, num_classes=2, depths=(1,), widths=(8,), num_heads=2).save_pretrained(
        tmp_path
    )
    for folder, message in ((tmp_path, "not adaln_zero"), (tmp_path / "none", "holds no config.json")):
        with pytest.raises(SystemExit) as stopped:
            main([str(folder)])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err

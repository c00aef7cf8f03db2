"""Sizes and amounts of computation are the published ones."""

import dataclasses
import re

import pytest

from dimr_model import VARIANTS, DiMRConfig
from dimr_model.__main__ import main
from dimr_model.complexity import analytic_macs, count_macs, count_parameters

M_3R = VARIANTS["M/3R-64"]
U_VIT_M4 = DiMRConfig(
    input_size=64, channels=3, num_classes=1000, depths=(16,), widths=(768,), num_heads=12, patch_size=4,
    time_conditioning="token", mlp="mlp", has_null_class=False,
)  # fmt: skip
WITH_ADALN = {"time_conditioning": "adaln_zero", "class_conditioning": "adaln_zero"}
PUBLISHED = {
    "M/3R-64": (132_827_913, 53.53),
    "L/3R-64": (284_137_737, 110.60),
    "XL/2R-256": (505_046_408, 160.18),
    "XL/3R-512": (525_027_372, 206.07),
    "G/2R-256": (1_056_352_904, 331.10),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_have_the_published_sizes(variant: str) -> None:
    parameters, gigamacs = PUBLISHED[variant]
    assert count_parameters(VARIANTS[variant]) == parameters
    counted = count_macs(VARIANTS[variant])
    assert counted == pytest.approx(gigamacs * 1e9, rel=2e-3)
    assert analytic_macs(VARIANTS[variant]) == pytest.approx(counted, rel=1e-3)


@pytest.mark.parametrize(
    ("row", "config", "published", "within"),
    [
        (1, U_VIT_M4, 130_940_292, 0.01),
        (2, dataclasses.replace(U_VIT_M4, **WITH_ADALN), 202_400_000, 0.01),
        (3, dataclasses.replace(M_3R, mlp="mlp", **WITH_ADALN), 217_900_000, 0.01),
        (4, dataclasses.replace(M_3R, mlp="mlp", time_conditioning="td_layernorm"), 153_953_289, 0),
        (5, dataclasses.replace(M_3R, time_conditioning="td_layernorm"), 132_940_809, 0),
    ],
)
def test_table_2_of_the_paper(row: int, config: DiMRConfig, published: int, within: float) -> None:
    # Row 6 adds the multi-scale loss to row 5, which is no parameter. The structure of rows 1 to 3 is not
    # published.
    assert count_parameters(config) == pytest.approx(published, rel=within, abs=0)


@pytest.mark.parametrize(
    "change",
    [
        {"cascade": "last_block"},
        {"cascade_join": "concatenate"},
        {"branch_skips": True},
        {"coarsest_blocks": "convnext", "class_conditioning": "added"},
        {"mlp": "mlp"},
        WITH_ADALN,
    ],
)
def test_analytic_count_follows_every_ablation(change: dict[str, object]) -> None:
    config = dataclasses.replace(VARIANTS["XL/2R-256"], **change)  # type: ignore[arg-type]
    assert analytic_macs(config) == pytest.approx(count_macs(config), rel=1e-3)


def test_command_prints_the_family(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    printed = capsys.readouterr().out
    for parameters, _ in PUBLISHED.values():
        assert f"{parameters:,}" in printed
    assert len(re.findall(r"^DiMR-", printed, re.MULTILINE)) == len(VARIANTS)


def test_qk_norm_adds_two_scales_as_long_as_a_head_is_wide_to_each_transformer_block() -> None:
    for variant, config in VARIANTS.items():
        normed = dataclasses.replace(config, qk_norm=True)
        head = config.widths[0] // config.num_heads
        assert count_parameters(normed) == PUBLISHED[variant][0] + 2 * head * config.built_depth(0)
    # A multiplication of each element is no multiply-add of a matrix.
    config = dataclasses.replace(VARIANTS["XL/2R-256"], qk_norm=True)
    assert count_macs(config) == count_macs(VARIANTS["XL/2R-256"])
    assert count_parameters(config) == 505_051_088

"""Suites: which cells there are, what they change, which are not possible and why."""

import itertools
from functools import cache
from pathlib import Path

import pytest
import yaml

from dimr_model.complexity import count_parameters
from orchestrator.config.command_line import parse
from orchestrator.config.plain import flatten
from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import UserError
from orchestrator.sweeps.suites import Cell, Suite, cells_of, load_suite, suite_names


def base(suite: Suite, scale: str) -> ExperimentConfig:
    presets = suite.scales[scale]  # type: ignore[index]
    return parse("Test.", presets[0], [part for name in presets for part in ("--config", name)])


@cache
def cells(name: str, scale: str = "nano") -> dict[str, Cell]:
    suite = load_suite(name)
    return {cell.name: cell for cell in cells_of(suite, scale, base(suite, scale))}  # type: ignore[arg-type]


@pytest.mark.parametrize("name", suite_names())
@pytest.mark.parametrize("scale", ["nano", "paper"])
def test_every_suite_has_trials_that_score_beside_training(name: str, scale: str) -> None:
    configs = [cell.config for cell in cells(name, scale).values() if cell.config]
    assert len(configs) >= 3
    for config in configs:
        assert 0 < config.train.score_every_images < config.train.images


def test_the_default_suite_is_the_product_with_impossible_cells_explained() -> None:
    found = cells("branches-x-conditioning")
    assert len(found) == 12
    impossible = {name: cell.reason for name, cell in found.items() if cell.config is None}
    assert set(impossible) == {"2R-token", "3R-token"}
    assert all("cannot reach ConvNeXt branches" in reason for reason in impossible.values())


@pytest.mark.parametrize("conditioning", ["AdaLN-Zero", "TD-LN", "TD-RMSNorm"])
def test_numbers_of_branches_are_compared_at_equal_parameters(conditioning: str) -> None:
    found = cells("branches-x-conditioning")
    counts = [count_parameters(found[f"{n}R-{conditioning}"].config.model) for n in (1, 2, 3)]  # type: ignore[union-attr]
    assert max(counts) / min(counts) <= 1.04


def test_trials_of_a_suite_differ_in_nothing_but_what_it_changes() -> None:
    found = [cell.config for cell in cells("conditioning").values() if cell.config]
    assert len({(c.run.seed, c.data, c.train) for c in found}) == 1


def test_equal_cells_share_a_trial() -> None:
    found = cells("branches")
    assert found["3R-multiply-adds"].same_as == "3R-parameters"
    assert [name for name, cell in found.items() if cell.same_as] == ["3R-multiply-adds"]


def test_table_2_counts_the_papers_parameters_where_the_structure_is_known() -> None:
    found = list(cells("table2", "paper").values())
    counted = [round(count_parameters(cell.config.model) / 1e6, 1) for cell in found if cell.config]
    reported = [float(cell.paper["parameters"].removesuffix("M")) for cell in found]
    assert [counted[row] for row in (0, 3, 4, 5)] == [reported[row] for row in (0, 3, 4, 5)]
    # The paper does not say how AdaLN-Zero's modulation is made; ours is near.
    assert counted[1] == pytest.approx(reported[1], rel=0.001)
    assert counted[2] == pytest.approx(reported[2], rel=0.01)


def test_recipes_add_one_thing_after_another_and_share_the_seeds_trials_at_paper_scale() -> None:
    nano, paper = cells("recipes"), cells("recipes", "paper")
    assert len(nano) == len(paper) == 7 * 2 * 3
    assert not [name for name, cell in nano.items() if cell.same_as or cell.config is None]
    assert {cell.config.train.images for cell in nano.values() if cell.config} == {12_800}
    assert len([cell for cell in paper.values() if not cell.same_as]) == 7 * 2
    names = ["flow", "logit-normal", "QK-norm", "Muon"]
    settings = [flatten(nano[f"{name}-all-s0"].config) for name in [*names, "min-SNR"]]  # type: ignore[arg-type]
    steps = [*itertools.pairwise(settings[:-1]), (settings[1], settings[-1])]
    added = [{k for k in now if now[k] != before[k]} for before, now in steps]
    assert added == [{"diffusion.time"}, {"model.qk_norm"}, {"train.optimizer"}, {"diffusion.loss_weight"}]
    for found in (nano, paper):
        one, many = (count_parameters(found[f"Muon-{n}-s0"].config.model) for n in ("one", "all"))  # type: ignore[union-attr]
        assert one == pytest.approx(many, rel=0.02)


def test_numbers_that_the_text_does_not_have_are_said_to_be_not_available() -> None:
    assert {cell.paper["fid"] for cell in cells("table3").values()} == {"not available"}


SMALL = {
    "title": "Mine",
    "scales": {"nano": ["quickstart"]},
    "axes": [
        {"name": "mlp", "options": [{"name": "plain", "changes": {"model.mlp": "mlp"}}, {"name": "geglu"}]}
    ],
}


def test_a_user_adds_a_suite_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    assert cells(str(path))["plain"].config.model.mlp == "mlp"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axes": [{"name": "mlp", "options": []}]}, "axis 'mlp' needs options with names that differ"),
        ({"axes": [{"name": "a", "options": [{"name": "x"}, {"name": "x"}]}]}, "names that differ"),
        ({"axes": []}, "at least one axis"),
        ({"axis": []}, "axis"),
        ({"axes": [{"name": "seeds", "options": [{"name": "x"}]}]}, "the table has a column of that name"),
        ({"axes": [{"name": "a", "options": [{"name": "x"}]}] * 2}, "axes need names that differ"),
        ({"axes": [{"name": "a", "options": [{"name": "x", "changes": {"model.mpl": "mlp"}}]}]},
         "changes 'model.mpl', which is no setting. Did you mean model.mlp"),
        ({"axes": [{"name": "a", "options": [{"name": "x y"}, {"name": "x_y"}]}]}, "the same folder 'x_y'"),
        ({"axes": [{"name": "a", "options": [{"name": "x", "changes": {"model.mlp": "cnn"}}]}]},
         "changes .*cnn.* are not valid: model.mlp is 'cnn', and must be one of: geglu, mlp"),
        ({"axes": [{"name": "a", "options": [{"name": "x", "changes": {"model.num_heads": 7}}]}]},
         "No combination of the suite is possible: num_heads 7 does not divide"),
    ],
)  # fmt: skip
def test_a_suite_that_is_wrong_says_what_is(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(SMALL | change))
    with pytest.raises(UserError, match=message):
        cells(str(path))


def test_an_unknown_suite_names_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean conditioning?"):
        load_suite("conditionning")

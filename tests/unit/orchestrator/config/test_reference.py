import json
from pathlib import Path

import pytest

from orchestrator.config.command_line import parse
from orchestrator.config.plain import flatten
from orchestrator.config.recipes import RECIPES, Recipe
from orchestrator.config.reference import reference

FILE = Path(__file__).resolve().parents[4] / "jobs" / "configs" / "REFERENCE.md"


def test_the_reference_is_current() -> None:
    assert FILE.read_text() == reference(), (
        "run python -m orchestrator.config.reference > jobs/configs/REFERENCE.md"
    )


def test_every_setting_is_in_it_with_what_it_means() -> None:
    found, section = set(), ""
    for line in reference().splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        if line.startswith("| `"):
            name, _, _, meaning = (cell.strip() for cell in line.replace("\\|", "or").strip("|").split("|"))
            assert meaning, line
            found.add(f"{section}.{name.strip('`')}")
    assert found == set(flatten(parse("Test.", "quickstart", [])))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_published_recipe_can_be_trained(recipe: Recipe) -> None:
    arguments = [
        part
        for key, value in recipe.settings.items()
        for part in (f"--{key}", value if isinstance(value, str) else json.dumps(value))
    ]
    config = flatten(parse("Test.", "imagenet256_xl2r", arguments))
    assert {key: config[key] for key in recipe.settings} == recipe.settings

"""What the documents name is there: files, presets, settings, jobs, tests."""

import re
import shlex
from pathlib import Path

import pytest

from orchestrator.config.command_line import parse, parse_with
from orchestrator.config.plain import flatten
from orchestrator.config.presets import PRESETS, preset_names, protocol_names
from orchestrator.planning.options import PlanOptions
from orchestrator.sweeps.command import AblateOptions, suite_base
from orchestrator.sweeps.suites import suite_names

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
SECTIONS = (
    "run",
    "data",
    "model",
    "diffusion",
    "train",
    "sampling",
    "evaluation",
    "prepare",
    "tracking",
    "cluster",
)
FILES = (".py", ".md", ".yaml", ".yml", ".json", ".html")
SETTINGS = set(flatten(parse("Test.", "quickstart", [])))


def named(document: Path, pattern: str) -> set[str]:
    return set(re.findall(pattern, document.read_text()))


def is_setting(key: str) -> bool:
    """Whether it is a setting, a section or the beginning of several settings (``train.keep_*``).

    File names look like settings, and count too.
    """
    beginnings = (f"{key}.", key if key.endswith("_") else f"{key}.")
    return (
        key in SETTINGS
        or any(known.startswith(beginnings) for known in SETTINGS)
        or Path(key).suffix in FILES
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_it_names_exists(document: Path) -> None:
    scales = {f"suites/scales/{path.stem}" for path in (PRESETS / "suites" / "scales").glob("*.yaml")}
    presets, sections = {*preset_names(), *protocol_names(), *scales}, "|".join(SECTIONS)
    wrong = {
        "files": [
            link
            for link in named(document, r"\]\(([^)#]+)") | named(document, r'src="([^"]+)"')
            if "://" not in link and not (document.parent / link).exists()
        ],
        "paths": [
            path
            for path in named(document, r"\b((?:orchestrator|dimr_model|jobs|cluster|tests)/[\w./-]+\.\w+)\b")
            if not (ROOT / path).exists()
        ],
        "tests": [
            test for test in named(document, r"`(test_\w+\.py)") if not [*ROOT.glob(f"tests/**/{test}")]
        ],
        "presets": named(document, r"--config[ =]([a-z]\w+(?:[-/]\w+)*)(?![\w./])") - presets,
        "suites": named(document, r"--suite ([a-z][\w-]*)(?![\w.-])") - {*suite_names()},
        "settings": [
            key
            for key in named(document, rf"(?<![\w./-])(?:--)?((?:{sections})(?:\.[a-z]\w*)+)(?![\w(/])")
            if not is_setting(key)
        ],
    }
    assert {kind: names for kind, names in wrong.items() if names} == {}


def commands(document: Path) -> list[tuple[str, list[str]]]:
    """(job, arguments) of every command line of a job that takes a config and nothing that must exist."""
    text = document.read_text().replace("\\\n", " ")
    lines = re.findall(r"(?:python|run) jobs/(train_g|plan|prepare_latents|ablate)\.py([^`\n|#]*)", text)
    found = [(job, shlex.split(rest)) for job, rest in lines if rest.count("'") % 2 == 0]
    # Words in place of arguments (NAME, ...) and other subcommands are none.
    return [(job, words) for job, words in found if not {"verify", "look", "...", "NAME"} & set(words)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_its_commands_are_understood(document: Path) -> None:
    for job, words in commands(document):
        if job == "ablate":
            parse_with(AblateOptions, "Test.", suite_base, words)
        else:
            parse_with(PlanOptions, "Test.", "imagenet256_g2r", words)


def test_commands_are_found() -> None:
    found = [job for document in DOCUMENTS for job, words in commands(document) if words]
    assert {"train_g", "plan", "prepare_latents", "ablate"} <= set(found)


def test_a_document_that_names_what_is_not_there_is_found(tmp_path: Path) -> None:
    document = tmp_path / "wrong.md"
    document.write_text(
        "[a](gone.md) `jobs/gone.py` `test_gone.py` --config gone --suite gone `train.gone` "
        "`train.workers` jobs/train_g.py"
    )
    with pytest.raises(AssertionError) as failed:
        test_what_it_names_exists(document)
    for gone in ("gone.md", "jobs/gone.py", "test_gone.py", "presets", "suites", "train.gone"):
        assert gone in str(failed.value)

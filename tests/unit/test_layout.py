"""Who imports whom: no circles, nothing looks upward, and `dimr_model` knows of nothing around it."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# From the bottom up: a module imports from its own layer and from layers below. A module that is not named
# here belongs to its room's layer. A `command` module is what a jobs/*.py calls. It is the top of its room,
# and nothing imports it.
LAYERS = (
    ("dimr_model",),
    ("orchestrator", "orchestrator.errors", "orchestrator.storage"),
    (
        *(
            f"orchestrator.config.{module}"
            for module in ("settings", "data", "evaluation", "training", "schema")
        ),
        "orchestrator.images",
        "orchestrator.artifacts",
    ),
    ("orchestrator.config", "orchestrator.precision"),
    ("orchestrator.cluster", "orchestrator.tracking", "orchestrator.checkpoints"),
    ("orchestrator.run.inputs",),
    ("orchestrator.run.folder", "orchestrator.run.provenance"),
    ("orchestrator.run.time_left",),
    ("orchestrator.run.terminal",),
    ("orchestrator.data",),
    ("orchestrator.training", "orchestrator.sampling"),
    ("orchestrator.scoring",),
    ("orchestrator.run",),
    ("orchestrator.planning", "orchestrator.sweeps", "orchestrator.distortion"),
    ("orchestrator.report",),
    ("orchestrator.benchmarks",),
)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {
    name_of(path): path
    for room in ("dimr_model", "orchestrator")
    for path in sorted((ROOT / room).rglob("*.py"))
}


def imported(path: Path) -> Iterator[str]:
    """Every module that a file names in an import, wherever in the file it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None and not node.level, f"{path}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


GRAPH = {
    module: {name for name in imported(path) if name in MODULES} - {module}
    for module, path in MODULES.items()
}
# A package's __init__ may hand on names of its modules. That makes no module depend on another.
GRAPH = {module: used for module, used in GRAPH.items() if MODULES[module].name != "__init__.py"}


def layer_of(module: str) -> int:
    candidates = [
        (len(prefix), number)
        for number, layer in enumerate(LAYERS)
        for prefix in layer
        if module == prefix or module.startswith(f"{prefix}.")
    ]
    # The longest prefix is the most particular one.
    return max(candidates)[1]


def test_there_are_no_circles() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(f"import circle: {' -> '.join(error.args[1])}")


def test_nothing_looks_upward() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, names in GRAPH.items()
        for name in names
        if not module.endswith(".command") and layer_of(name) > layer_of(module)
    ]
    assert wrong == []


def test_commands_are_imported_by_jobs_alone() -> None:
    assert [f"{m} imports {n}" for m, names in GRAPH.items() for n in names if n.endswith(".command")] == []


def test_the_network_knows_of_nothing_around_it() -> None:
    outside = {
        f"{module} imports {name}"
        for module, path in MODULES.items()
        if module.startswith("dimr_model")
        for name in imported(path)
        if name.split(".")[0] in ("orchestrator", "ray", "mlflow", "pyarrow", "jobs")
    }
    assert outside == set()


def test_a_circle_and_an_upward_look_are_found() -> None:
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()
    assert layer_of("orchestrator.run.experiment") > layer_of("orchestrator.scoring.evaluate")
    assert layer_of("orchestrator.run.folder") < layer_of("orchestrator.data.format")
    assert {name_of(path) for path in (ROOT / "orchestrator").rglob("*.py")} <= MODULES.keys()


@pytest.mark.parametrize("path", sorted(ROOT.glob("jobs/*.py")), ids=lambda path: path.stem)
def test_jobs_are_thin(path: Path) -> None:
    statements = [node for node in ast.parse(path.read_text()).body if not isinstance(node, ast.Expr)]
    assert len(path.read_text().splitlines()) <= 20
    assert all(isinstance(node, ast.ImportFrom | ast.Import | ast.If) for node in statements)

"""The benchmarks run and measure the same thing on both sides; their numbers are for people."""

import io
import re

import pytest
import torch
from rich.console import Console

from dimr_model import DiMR, DiMRConfig
from orchestrator.benchmarks import data, imports
from orchestrator.benchmarks.model import BASELINE, Case, _beside_baseline, compare, measure
from orchestrator.errors import UserError

CONFIG = DiMRConfig(input_size=8, channels=1, num_classes=3, depths=(3, 1), widths=(16, 8), num_heads=2)


def test_a_case_trains_as_the_baseline_does() -> None:
    torch.manual_seed(0)
    model, device = DiMR(CONFIG), torch.device("cpu")
    _, baseline = measure(BASELINE, model, 4, device)
    result, tested = measure(Case("eager"), model, 4, device)
    assert tested.losses == pytest.approx(baseline.losses, rel=1e-4)
    assert result.activation_bytes > 0
    timed = _beside_baseline(Case("eager, bf16", precision="bf16"), model, 4, 2, device)
    assert min(timed.step_seconds, timed.forward_seconds, timed.step_speed, timed.forward_speed) > 0


def test_an_unknown_variant_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="use small, M/3R-64"):
        compare("huge", 1, 1, Console())


@pytest.mark.usefixtures("ray_session")
@pytest.mark.faults
def test_the_data_benchmark_reads_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "RELEASED_FILES", 512)
    out = io.StringIO()
    data.measure_data(4096, Console(file=out, width=120))
    assert len(re.findall(r"^epoch \d: ", out.getvalue(), re.MULTILINE)) == data.EPOCHS
    assert "one .npy per sample" in out.getvalue()


@pytest.mark.long
def test_the_imports_benchmark_measures_every_kind_of_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "from dimr_model import DiMR" in imports.CASES
    few = {name: imports.CASES[name] for name in ("import torch", "jobs/report.py --help")}
    monkeypatch.setattr(imports, "CASES", few)
    medians = imports.measure_imports(1, Console(file=io.StringIO(), width=120))
    assert 0 < medians["jobs/report.py --help"] < medians["import torch"]

"""Two ranks train compiled units, with held-out rows that neither ranks nor batches divide evenly."""

import json
from pathlib import Path

import pytest

from dimr_model import DiMR
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.training import parallelize
from orchestrator.training.hooks import Hooks
from orchestrator.training.shards import TrainJob
from orchestrator.training.worker import run_process
from tests.configs import tiny
from tests.datasets import write_numbered
from tests.processes import in_processes

SIZE = 8


def train(config: ExperimentConfig, dataset: LatentDataset, held_out: LatentDataset, backend: str) -> None:
    def note(metrics: dict[str, float], images_seen: int) -> None:
        with open(f"{config.run.root}.jsonl", "a") as stream:
            stream.write(json.dumps({"images": images_seen} | metrics) + "\n")

    hooks = Hooks(on_metrics=note, on_checkpoint=lambda checkpoint: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallelize, "sharded_units", lambda model, smallest_unit: model.units)
        if backend != "inductor":
            patch.setenv("CC", "true")
            whole = DiMR.compile_units
            patch.setattr(DiMR, "compile_units", lambda model, dynamic: whole(model, backend, dynamic))
        run_process(TrainJob(config, dataset, lambda: hooks, held_out=held_out))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.faults)])
def test_compiled_and_sharded_units_take_held_out_rows_of_any_number(tmp_path: Path, backend: str) -> None:
    """Each new size of a batch would be compiled anew, until torch gives up with an error."""
    dataset, held_out = (
        write_numbered(tmp_path / name, count, 8, SIZE) for name, count in (("data", 64), ("rest", 19))
    )
    found = {}
    for compiled in (False, True):
        config = tiny(
            tmp_path / f"{compiled}", dataset.path,
            model={"input_size": SIZE, "depths": [3, 3, 1], "widths": [64, 32, 16]},
            train={"workers": 2, "compile": compiled},
        )  # fmt: skip
        in_processes(train, 2, config, dataset, held_out, backend)
        lines = [json.loads(line) for line in Path(f"{config.run.root}.jsonl").read_text().splitlines()]
        found[compiled] = {
            (key, line["images"]): line[key]
            for line in lines
            for key in ("loss/total", "held_out/loss/total")
            if key in line
        }
    assert ("held_out/loss/total", 64) in found[False]
    assert found[True] == pytest.approx(found[False], rel=1e-3)

"""Plans of the presets, in seconds, and what is refused."""

import dataclasses
import io
import re
import time
from pathlib import Path

import pytest
from rich.console import Console
from torch import nn

from dimr_model import DiMR
from dimr_model.complexity import count_parameters
from orchestrator.config.command_line import parse, parse_with
from orchestrator.config.presets import preset_names
from orchestrator.errors import UserError
from orchestrator.planning.command import print_plan
from orchestrator.planning.machine import machine_of
from orchestrator.planning.options import PlanOptions
from orchestrator.planning.plan import network_evaluations, sampling_hours, scale, scales, storage_of
from orchestrator.planning.trace import StepTrace, trace_step
from tests.configs import tiny


def printed(name: str, *arguments: str, **options: object) -> str:
    out = io.StringIO()
    console = Console(file=out, width=160, highlight=False)
    print_plan(parse("Test.", name, list(arguments)), PlanOptions(**options), console)  # type: ignore[arg-type]
    return out.getvalue()


@pytest.fixture(scope="module")
def largest() -> StepTrace:
    return trace_step(parse("Test.", "imagenet256_g2r", []))


def test_the_papers_largest_model_has_the_known_numbers(largest: StepTrace) -> None:
    config, options = parse("Test.", "imagenet256_g2r", []), PlanOptions(price=2.0, mfu=0.4)
    storage = storage_of(config, largest)
    assert storage.parameters == 1_056_352_904
    assert storage.checkpoint == pytest.approx(17e9, rel=0.01)
    machine = machine_of(config, options)
    one = scale(config, 1, largest, machine, options)
    held = sum(one.memory.parts[name] for name in ("weights", "moments", "EMA"))
    assert held == pytest.approx(17e9, rel=0.01)
    assert one.images_per_second == pytest.approx(199, rel=0.02)
    assert one.worker_hours == pytest.approx(1430, rel=0.02)
    assert largest.forward_flops_per_image == pytest.approx(2 * 331.4e9, rel=0.01)
    in_bf16 = parse("Test.", "imagenet256_g2r", ["--sampling.precision", "bf16"])
    assert network_evaluations(in_bf16) == 500
    hours = 50_000 * sampling_hours(in_bf16, largest, machine_of(in_bf16, options), 0.4, options)
    assert hours == pytest.approx(11.6, rel=0.02)


MEASURED = {
    ("imagenet256_g2r", 64, "false"): 87.3,
    ("imagenet64_m3r", 128, "false"): 318.6,
    ("imagenet64_m3r", 128, "true"): 489.4,
}
"""Images/s that an H200 trained in bf16 (jobs/benchmark.py gpu, torch 2.11, 2026-11-26)."""


@pytest.mark.parametrize(("case", "measured"), MEASURED.items())
def test_the_estimated_speed_is_near_what_was_measured(case: tuple[str, int, str], measured: float) -> None:
    name, images, compiled = case
    arguments = {
        "train.workers": "1", "train.batch_size": str(images), "data.lanes": str(images),
        "train.micro_batches": "1", "train.compile": compiled,
    }  # fmt: skip
    config = parse("Test.", name, [word for key, value in arguments.items() for word in (f"--{key}", value)])
    options = PlanOptions(gpu="H200")
    row = scale(config, 1, trace_step(config), machine_of(config, options), options)
    assert row.images_per_second == pytest.approx(measured, rel=0.05)


def test_small_micro_batches_wait_for_launches_and_slow_memory_for_bytes(largest: StepTrace) -> None:
    config = parse("Test.", "imagenet256_g2r", [])

    def speed(workers: int, gpu: str, compiled: bool = True) -> float:
        options = PlanOptions(gpu=gpu)
        chosen = dataclasses.replace(config, train=dataclasses.replace(config.train, compile=compiled))
        row = scale(chosen, workers, largest, machine_of(chosen, options), options)
        return row.images_per_second / workers

    assert speed(64, "H100") < 0.8 * speed(8, "H100")
    # They differ in their memory alone.
    assert 1.05 < speed(8, "H200") / speed(8, "H100") < 4.8 / 3.35
    assert speed(8, "H100") / speed(8, "H100", compiled=False) == pytest.approx(1.75 / 1.15, rel=0.05)


def test_as_many_workers_as_divide_lanes_and_share(largest: StepTrace) -> None:
    config, options = parse("Test.", "imagenet256_g2r", ["--train.micro_batches", "32"]), PlanOptions()
    possible, refused = scales(config, largest, machine_of(config, options), options)
    assert [row.workers for row in possible] == [1, 2, 4, 8, 16, 32]
    assert [row.images_per_worker * row.workers for row in possible] == [1024] * 6
    assert len(refused) == 1 and refused[0].startswith("64: ") and "micro_batches" in refused[0]
    # Every worker holds less where there are more, and hours shrink.
    assert sorted(possible, key=lambda row: -row.memory.total) == possible
    assert sorted(possible, key=lambda row: -row.hours) == possible


def test_what_does_not_fit_says_what_would(largest: StepTrace) -> None:
    whole = parse("Test.", "imagenet256_g2r", ["--train.micro_batches", "1"])
    options = PlanOptions(gpu="H100")
    row = scale(whole, 8, largest, machine_of(whole, options), options)
    assert not row.fits and row.fitting_micro_batches is not None
    parts = str(row.fitting_micro_batches)
    split = parse("Test.", "imagenet256_g2r", ["--train.micro_batches", parts])
    assert scale(split, 8, largest, machine_of(split, options), options).fits
    assert scale(whole, 8, largest, machine_of(whole, PlanOptions(gpu="H200")), PlanOptions(gpu="H200")).fits


def test_replicas_hold_everything_and_nodes_their_part(largest: StepTrace) -> None:
    def weights(sharding: str) -> int:
        config = parse("Test.", "imagenet256_g2r", ["--train.sharding", sharding])
        options = PlanOptions(gpus_per_node=4)
        return scale(config, 16, largest, machine_of(config, options), options).memory.parts["weights"]

    assert weights("replicate") == 4 * weights("hybrid") == 16 * weights("shard")


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_planned_in_seconds_and_fits_the_hardware_it_names(name: str) -> None:
    started = time.process_time()
    text = printed(name, gpu="H100", price=2.5)
    assert time.process_time() - started < 60  # A few seconds on a machine that is not busy.
    assert "does not fit" not in text and "cost" in text
    hours = re.search(r"([\d,]+) images/s a GPU and ([\d,.]+) GPU-hours", _header(name))
    assert (hours is not None) == name.startswith("imagenet")
    if hours:
        assert f"│ {hours[2]} " in text, (hours[2], text)


def _header(name: str) -> str:
    text = (Path("jobs/configs") / f"{name}.yaml").read_text()
    return " ".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("#"))


def test_recomputing_costs_work_and_saves_memory() -> None:
    model = {"input_size": 16, "depths": [3, 3], "widths": [64, 32]}
    kept = tiny(Path("x"), "x", model=model)
    recomputed = tiny(Path("x"), "x", model=model, train={"recompute_branches": [0, 1]})
    traces, options = [trace_step(config) for config in (kept, recomputed)], PlanOptions(mfu=0.5)
    assert 1.2 < traces[1].flops_per_image / traces[0].flops_per_image < 4 / 3
    assert traces[0].forward_flops_per_image == traces[1].forward_flops_per_image
    rows = [scale(kept, 1, trace, machine_of(kept, options), options) for trace in traces]
    assert rows[1].memory.total < 0.7 * rows[0].memory.total


def test_a_measured_speed_replaces_the_assumption(tmp_path: Path) -> None:
    assert "as given" in printed("quickstart", mfu=0.43)
    text = printed("quickstart", images_per_second_per_worker=50.0)
    assert re.search(r"│ 2 +│ 8 +│ [\d.]+ +│ 100 +│ 0\.0356 ", text)


def test_storage_follows_the_rule_of_what_stays() -> None:
    train = {
        "images": 640, "checkpoint_every_images": 64, "keep_checkpoints": 2, "keep_every_images": 128,
        "keep_best_by": "held_out/loss/total", "export_every_images": 320,
    }  # fmt: skip
    config = tiny(Path("x"), "x", train=train)
    storage = storage_of(config, trace_step(config))
    # 128, 256, 384, 512 and 640; 576 is new; one may be the best.
    assert (storage.checkpoints_written, storage.checkpoints_kept, storage.exports) == (10, 7, 3)


def test_muon_has_one_moment_for_each_weight_of_a_matrix() -> None:
    config = parse("Test.", "quickstart", [])
    trace = trace_step(config)
    model = DiMR(config.model)
    matrices = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    assert trace.moments == 4 * (2 * count_parameters(config.model) - matrices)
    assert storage_of(config, trace).checkpoint == 8 * count_parameters(config.model) + trace.moments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "H1000"], "use one of H200, H100, A100, L40S, L4, V100"),
        (["--price", "-1"], "price -1.0 must be positive"),
        (["--mfu", "40"], r"mfu 40.0 must be in \(0, 1\]"),
        (["--mfu", "0.4", "--images_per_second_per_worker", "9"], "not both"),
        (["--images_per_second_per_worker", "0"], "must be positive"),
        (["--gpus_per_node", "0"], "at least 1"),
        (["--prise", "2"], "Did you mean 'price'"),
    ],
)
def test_mistakes_are_explained(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_with(PlanOptions, "Test.", "quickstart", arguments)

"""Muon gets the matrices of linear layers, does what torch's own does, and goes on to the same bits."""

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from dimr_model import DiMR, DiMRConfig
from orchestrator.config.training import TrainConfig
from orchestrator.training.hooks import Hooks
from orchestrator.training.muon import ShardMuon
from orchestrator.training.optimizer import build_optimizer, set_learning_rate
from orchestrator.training.parallelize import make_mesh, parallelize
from orchestrator.training.shards import TrainJob
from orchestrator.training.worker import run_process
from tests.configs import no_hooks, tiny
from tests.datasets import write_numbered
from tests.states import whole_state

ARCHITECTURE = DiMRConfig(
    input_size=8, channels=1, num_classes=3, depths=(3, 1), widths=(16, 8), num_heads=2, qk_norm=True,
    time_conditioning="adaln_zero", class_conditioning="adaln_zero",
)  # fmt: skip
CONFIG = TrainConfig(images=100, optimizer="muon", weight_decay=0.03, vector_learning_rate_scale=3.0)


@pytest.fixture
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_linear_layers_alone_are_muon_s() -> None:
    model = DiMR(ARCHITECTURE)
    optimizer = build_optimizer(model, CONFIG)
    assert isinstance(optimizer, ShardMuon)
    matrices = {id(p): g["matrices"] for g in optimizer.param_groups for p in g["params"]}
    found = {name: matrices[id(p)] for name, p in model.named_parameters()}
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert {name for name, count in found.items() if count} == linear
    assert {name for name, count in found.items() if count == 3} == {
        f"branches.0.blocks.{n}.attention.qkv.weight" for n in range(3)
    }
    # Embeddings, positions, convolutions and vectors are AdamW's.
    others = set(found) - linear
    assert {
        "branches.0.class_embedding.weight",
        "branches.1.positions",
        "branches.0.patchify.weight",
    } < others
    assert all(p.dim() == 2 for name, p in model.named_parameters() if name in linear)


def test_adamw_has_the_groups_and_keys_that_it_had() -> None:
    optimizer = build_optimizer(DiMR(ARCHITECTURE), dataclasses.replace(CONFIG, optimizer="adamw"))
    assert not isinstance(optimizer, ShardMuon)
    assert not any("matrices" in group for group in optimizer.param_groups)


def updated(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The weights after three updates with fixed gradients."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for parameter in model.parameters():
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = torch.zeros_like(parameter)
            local = parameter.grad.to_local() if isinstance(parameter.grad, DTensor) else parameter.grad
            local.copy_(gradient)
        set_learning_rate(optimizer, 1e-2)
        optimizer.step()
    weights = {name: p.detach() for name, p in model.named_parameters()}
    return {name: w.full_tensor() if isinstance(w, DTensor) else w for name, w in weights.items()}


def updated_by_torch(model: DiMR) -> dict[str, Tensor]:
    """The same by ``torch.optim.Muon`` and ``torch.optim.AdamW``, each of queries, keys and values alone."""
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    linear = [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    matrices, pieces = [], {}
    for name in linear:
        pieces[name] = [nn.Parameter(part.clone()) for part in weights[name].chunk(3 if "qkv" in name else 1)]
        matrices += pieces[name]
    muon = torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.03, adjust_lr_fn="match_rms_adamw")
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for name, weight in weights.items():
            gradient = torch.randn(weight.shape, generator=generator)
            if name in pieces:
                for piece, part in zip(pieces[name], gradient.chunk(len(pieces[name])), strict=True):
                    piece.grad = part
        muon.step()
    return {name: torch.cat([piece.detach() for piece in parts]) for name, parts in pieces.items()}


def test_it_does_what_torch_s_own_does(group: None) -> None:
    torch.manual_seed(0)
    model = DiMR(ARCHITECTURE)
    expected = updated_by_torch(model)
    sharded = parallelize(copy.deepcopy(model), make_mesh(CONFIG, "cpu", 1, 1), CONFIG)
    plain_adamw = copy.deepcopy(model)
    adamw = build_optimizer(plain_adamw, dataclasses.replace(CONFIG, optimizer="adamw"))
    others = updated(plain_adamw, adamw)
    for changed in (model, sharded):
        found = updated(changed, build_optimizer(changed, CONFIG))
        assert expected.keys() < found.keys()
        for name, weight in found.items():
            assert torch.equal(weight, expected.get(name, others[name])), name


def test_an_update_is_as_large_as_adamw_s_usually_is() -> None:
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Linear(64, 192, bias=False))
    before = linear[0].weight.detach().clone()
    optimizer = build_optimizer(linear, dataclasses.replace(CONFIG, weight_decay=0.0))
    linear[0].weight.grad = torch.randn(192, 64)
    set_learning_rate(optimizer, 0.01)
    optimizer.step()
    size = float((linear[0].weight.detach() - before).square().mean().sqrt())
    # Liu et al. (2025): AdamW's updates have a root mean square of 0.2 to 0.4 times the learning rate.
    assert 0.15 * 0.01 < size < 0.3 * 0.01


def test_stopping_and_continuing_gives_the_same_bits(tmp_path: Path) -> None:
    dataset = write_numbered(tmp_path / "data", 50, 8)
    muon, seen = {"optimizer": "muon"}, list[int]()

    def hooks() -> Hooks:
        return dataclasses.replace(no_hooks(), on_metrics=lambda metrics, images: seen.append(images))

    whole = tiny(tmp_path / "whole", dataset.path, train=muon)
    run_process(TrainJob(whole, dataset, no_hooks))
    run_process(
        TrainJob(tiny(tmp_path / "parts", dataset.path, train={"images": 32, **muon}), dataset, hooks)
    )
    continued = tiny(tmp_path / "parts", dataset.path, train=muon)
    run_process(TrainJob(continued, dataset, hooks))
    assert seen == [16, 32, 48, 64]
    expected, found = whole_state(whole), whole_state(continued)
    assert any(name.endswith("/momentum_buffer") for name in expected)
    assert {name.split("/")[1] for name in expected} == {"model", "optimizer", "ema"}
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    adamw = tiny(tmp_path / "adamw", dataset.path)
    run_process(TrainJob(adamw, dataset, no_hooks))
    # The names of weights and of their average are the same with either.
    assert {n for n in whole_state(adamw) if "/optimizer/" not in n} == {
        n for n in expected if "/optimizer/" not in n
    }

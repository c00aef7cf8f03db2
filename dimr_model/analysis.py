"""Principal components of what AdaLN-Zero learned (the paper's Figures 3 and 6).

``python -m dimr_model.analysis FOLDER`` reads a DiMR with AdaLN-Zero, or any diffusers
``DiTTransformer2DModel``. It collects the scales and shifts that each block uses along the steps of sampling,
and plots how much of their variance each principal component explains. The paper found that two components
explain most of it (Section 4.2 and Appendix E). TD-LN builds on this.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dimr_model.adaln import AdaLNZero
from dimr_model.branch import Branch
from dimr_model.config import NUM_STEPS
from dimr_model.network import DiMR
from dimr_model.normalization import Condition

# gamma_1, gamma_2, beta_1 and beta_2 of Section 4.2.
NAMES = ("scale 1", "scale 2", "shift 1", "shift 2")
COMPONENTS = 8

Collected = dict[str, Tensor]
"""Name in ``NAMES`` -> ``[steps * labels, width]``."""


def explained_variance(rows: Tensor) -> Tensor:
    """The share of the variance of ``rows [N, width]`` that each principal component explains, falling.

    All shares are 0 if no column varies.
    """
    centered = rows.double() - rows.double().mean(dim=0)
    # The explained variance ratio of Figures 3 and 6.
    variances = torch.linalg.svdvals(centered).square()
    return variances / variances.sum().clamp_min(torch.finfo(torch.float64).tiny)


@torch.no_grad()
def collect_dimr(model: DiMR, steps: Tensor, labels: Tensor, branch: int = 0) -> list[Collected]:
    """Collect the scales and shifts of every block of a branch, at every diffusion step and label.

    They depend on nothing else.

    Args:
        steps: ``[S]`` diffusion steps in 1..1000.
        labels: ``[L]`` classes.

    Raises:
        ValueError: the network has no AdaLN-Zero, or no such branch.
    """
    if model.architecture.time_conditioning != "adaln_zero":
        raise ValueError(
            f"this network's time_conditioning is {model.architecture.time_conditioning}, not adaln_zero"
        )
    if not 0 <= branch < len(model.branches):
        raise ValueError(f"branch {branch} must be in 0..{len(model.branches) - 1}")
    part = model.branches[branch]
    assert isinstance(part, Branch)
    step, label = _grid(steps, labels)
    # The network's own time, as in the released code: n / 500 - 1.
    tau = (step / (NUM_STEPS / 2) - 1).to(part.positions.dtype)
    condition = part.condition(tau, label)
    collected = []
    for block in part.blocks:
        assert isinstance(block.adaln, AdaLNZero)
        # (gamma_i, beta_i, alpha_i) of Section 4.2, i = 1, 2.
        first, second = map(_modulation, block.adaln(condition))
        collected.append(dict(zip(NAMES, (first[0], second[0], first[1], second[1]), strict=True)))
    return collected


def _modulation(condition: Condition) -> tuple[Tensor, Tensor, Tensor]:
    assert condition.modulation is not None
    return condition.modulation


@torch.no_grad()
def collect_dit(model: torch.nn.Module, steps: Tensor, labels: Tensor) -> list[Collected]:
    """Collect the same from a diffusers ``DiTTransformer2DModel``, which counts diffusion steps from 0."""
    step, label = _grid(steps, labels)
    collected = []
    blocks: Any = model.transformer_blocks
    for block in blocks:
        norm = block.norm1
        embedding = norm.emb(step.long() - 1, label, hidden_dtype=norm.linear.weight.dtype)
        # Eq. 3, for both sub-layers of the block.
        shift1, scale1, _, shift2, scale2, _ = norm.linear(norm.silu(embedding)).chunk(6, dim=1)
        collected.append(dict(zip(NAMES, (scale1, scale2, shift1, shift2), strict=True)))
    return collected


def _grid(steps: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return steps.repeat_interleave(len(labels)), labels.repeat(len(steps))


def shown_depths(count: int) -> list[int]:
    """Up to four blocks, counted from 1 and a quarter of the depth apart.

    They are those of Figure 6, which shows blocks 7, 14, 21 and 28 of 28.
    """
    return sorted({max(1, round(count * quarter / 4)) for quarter in range(1, 5)})


def plot(collected: list[Collected], title: str, path: Path) -> None:
    """Write a plot like Figure 6 to ``path``: the explained variance of each component as bars.

    It has a row for each shown depth, and a column for each scale and shift.
    """
    from matplotlib.figure import Figure

    depths = shown_depths(len(collected))
    figure = Figure(figsize=(11, 2.2 * len(depths) + 0.6), layout="constrained")
    axes = figure.subplots(len(depths), len(NAMES), squeeze=False, sharey=True)
    for row, depth in zip(axes, depths, strict=True):
        for axis, name in zip(row, NAMES, strict=True):
            shares = explained_variance(collected[depth - 1][name])[:COMPONENTS]
            axis.bar(range(1, len(shares) + 1), shares.numpy())
            axis.set_title(f"block {depth} of {len(collected)}, {name}", fontsize=9)
            axis.set_ylim(0, 1)
    for axis in axes[-1]:
        axis.set_xlabel("principal component")
    for row in axes:
        row[0].set_ylabel("explained variance")
    figure.suptitle(title)
    figure.savefig(path, dpi=110)


def load(folder: Path, branch: int) -> tuple[str, int, Callable[[Tensor, Tensor], list[Collected]]]:
    """Read the model in a folder: (description, number of classes, collector).

    Raises:
        ValueError: the folder holds neither a DiMR nor a DiT.
    """
    config = folder / "config.json"
    if not config.is_file():
        raise ValueError(f"{folder} holds no config.json; name the folder that save_pretrained wrote")
    kind = json.loads(config.read_text()).get("_class_name")
    if kind == "DiMR":
        model = DiMR.from_pretrained(folder)
        collect = partial(collect_dimr, model, branch=branch)
        return f"DiMR, branch {branch}", model.architecture.num_classes, collect
    if kind == "DiTTransformer2DModel":
        from diffusers import DiTTransformer2DModel

        dit = DiTTransformer2DModel.from_pretrained(folder, low_cpu_mem_usage=False)
        return "DiT", int(dit.config.num_embeds_ada_norm), partial(collect_dit, dit)
    raise ValueError(f"{config} describes a {kind}; this reads a DiMR or a DiTTransformer2DModel")


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, analyse, plot and print; a mistake of the user ends it with code 2."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="what save_pretrained wrote (a run's export/, or a DiT)")
    parser.add_argument("--branch", type=int, default=0, help="branch of a DiMR, 0 is the coarsest")
    parser.add_argument("--steps", type=int, default=250, help="sampling steps to collect at")
    parser.add_argument("--labels", type=int, default=8, help="classes to collect for, evenly spaced")
    parser.add_argument("--output", type=Path, default=Path("adaln_pca.png"), help="the plot")
    chosen = parser.parse_args(arguments)
    try:
        title, classes, collect = load(chosen.folder, chosen.branch)
        steps = torch.linspace(NUM_STEPS, 1, chosen.steps)
        labels = torch.linspace(0, classes - 1, min(chosen.labels, classes)).round().long()
        collected = collect(steps, labels)
    except ValueError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    plot(collected, f"{title}: {chosen.steps} steps, {len(labels)} classes", chosen.output)
    for depth in shown_depths(len(collected)):
        shares = {name: explained_variance(rows) for name, rows in collected[depth - 1].items()}
        line = ", ".join(f"{name} {float(share[:2].sum()):.1%}" for name, share in shares.items())
        print(f"block {depth}: first two components explain {line}")
    print(f"Plot: {chosen.output}")


if __name__ == "__main__":
    main()

"""Solvers by name, and the interface that all of them share."""

from typing import Protocol

from torch import Tensor

from dimr_model.config import Sampler
from dimr_model.ddim import DDIMSolver
from dimr_model.diffusion import Flow, NoiseSchedule, Process
from dimr_model.dpm_solver import MultistepSolver, ReleasedSolver
from dimr_model.flow_solvers import EulerSolver, HeunSolver
from dimr_model.objective import check_sampler


class Solver(Protocol):
    """Goes once from noise to an image, and remembers where it is."""

    timesteps: Tensor
    """``[S]``: the diffusion step of every network call, counted from 0 (the paper counts from 1).

    They are on the CPU, as is all that a solver knows of its steps: a GPU is never waited for.
    """
    adds_noise: bool
    """Whether every step adds fresh noise."""

    def begin(self, noise: Tensor) -> Tensor:
        """The state that sampling starts from."""

    def noisy(self, state: Tensor, timestep: Tensor) -> Tensor:
        """What the network sees."""

    def step(self, clean: Tensor, timestep: Tensor, state: Tensor, noise: Tensor | None = None) -> Tensor:
        """The next state, from the estimate ``clean`` of the clean image at this one."""


def make_solver(sampler: Sampler, process: Process) -> Solver:
    """The solver that ``sampler`` names, at its first step.

    Raises:
        ValueError: it is made for the other kind of process.
    """
    check_sampler("flow" if isinstance(process, Flow) else "diffusion", sampler.kind)
    if sampler.kind == "dpm_solver_multistep":
        return MultistepSolver(process, sampler.steps)
    if isinstance(process, Flow) and sampler.kind in ("euler", "heun"):
        return (EulerSolver if sampler.kind == "euler" else HeunSolver)(process, sampler.steps)
    if isinstance(process, NoiseSchedule) and sampler.kind == "released":
        return ReleasedSolver(process, sampler.steps)
    if isinstance(process, NoiseSchedule) and sampler.kind in ("ddim", "ddpm"):
        return DDIMSolver(process, sampler.steps, adds_noise=sampler.kind == "ddpm")
    # Here, because diffusers costs seconds and those above do without.
    from dimr_model.diffusers_solvers import DiffusersFlowSolver, DiffusersSolver

    if isinstance(process, Flow):
        return DiffusersFlowSolver(sampler, process)
    assert isinstance(process, NoiseSchedule)
    return DiffusersSolver(sampler, process)

"""Samples on a simulated GPU and on the CPU: prints how far they are apart, and what was waited for."""

import json
import sys
from pathlib import Path

import torch

from dimr_model import DiMR
from dimr_model.objective import DIFFUSION_SAMPLERS, FLOW_SAMPLERS
from orchestrator.sampling.sampler import ImageSampler
from tests.configs import tiny
from tests.simulated.cuda import SimulatedGPU, pretend

STEPS = 6


def main(root: Path) -> None:
    """Print a line of JSON for every sampler and guidance."""
    pretend()
    processes = {"diffusion": DIFFUSION_SAMPLERS, "flow": FLOW_SAMPLERS}
    for process, kind in [(process, kind) for process, kinds in processes.items() for kind in kinds]:
        for guidance in ("none", "constant"):
            config, on_gpu = (
                tiny(
                    root, "data", model={"input_size": 8},
                    diffusion={"process": "flow", "prediction": "velocity"} if process == "flow" else {},
                    sampling={"sampler": {"kind": kind, "steps": STEPS}, "use_gpu": use_gpu,
                              "guidance": {"kind": guidance, "scale": 3.0}},
                )
                for use_gpu in (False, True)
            )  # fmt: skip
            torch.manual_seed(0)
            model = DiMR(config.model).eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.05 * torch.randn_like(parameter))
            expected, _ = ImageSampler(config, model, None).sample(list(range(4)))
            with SimulatedGPU() as gpu:
                sampler = ImageSampler(on_gpu, model, None)
                gpu.events.clear()
                images, _ = sampler.sample(list(range(4)))
            apart = int((images.int() - expected.int()).abs().max())
            print(
                json.dumps(
                    {
                        "process": process,
                        "kind": kind,
                        "guidance": guidance,
                        "apart": apart,
                        "events": gpu.events,
                    }
                )
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]))

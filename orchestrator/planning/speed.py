"""How fast a worker trains and samples.

On a GPU every operator takes as long as its arithmetic or its memory traffic, whichever is longer: a roofline
(Williams et al., 2009) for each. On a CPU a part of the peak is assumed.
"""

import numpy as np

from orchestrator.config.schema import ExperimentConfig
from orchestrator.config.settings import Precision
from orchestrator.planning.machine import Machine
from orchestrator.planning.options import PlanOptions
from orchestrator.planning.trace import Operators, StepTrace

ASSUMED_CPU_MFU = 0.4
"""Model FLOPs utilization (Chowdhery et al., 2022) of a CPU where none was measured."""
BANDWIDTH_REACHED, PEAK_REACHED = 0.85, 0.7
"""The parts of a GPU's bandwidth and peak that large operators reach."""
LAUNCH_SECONDS = 2.5e-6
"""The least that an operator takes."""
SLOWER_THAN_ROOFLINE = {False: 1.75, True: 1.15}
"""Times the roofline that a step takes, without and with compiled blocks.

On an H200 (torch 2.11, 2026-11-26) it was 1.76 (G/2R) and 1.75 (M/3R) without, and 1.14 (M/3R) with.
Compilation makes operators fewer, but it is the roofline of those that are not compiled.
"""
UPDATE_BYTES = 52
"""Memory traffic for each weight in an update: its gradient's norm and clipping, AdamW, EMA; in float32."""


def seconds(
    operators: Operators, images: int, machine: Machine, precision: Precision, compiled: bool
) -> float:
    """How long a GPU takes for these operators on so many images."""
    assert machine.bandwidth is not None
    moved = (operators.fixed_bytes + images * operators.bytes_per_image) / machine.bandwidth
    computed = images * operators.flops_per_image / machine.flops[precision]
    each = np.maximum(moved / BANDWIDTH_REACHED, computed / PEAK_REACHED)
    return float(np.maximum(each, LAUNCH_SECONDS).sum() * SLOWER_THAN_ROOFLINE[compiled])


def training_images_per_second(
    config: ExperimentConfig, trace: StepTrace, shards: int, machine: Machine, options: PlanOptions
) -> float:
    """A worker's speed: as given, by the given or assumed MFU, or by the roofline.

    Args:
        config: decides batch, workers and micro-batches.
        shards: workers among which the update is divided.
    """
    train = config.train
    if options.images_per_second_per_worker is not None:
        return options.images_per_second_per_worker
    if options.mfu is not None or machine.bandwidth is None:
        part = options.mfu or ASSUMED_CPU_MFU
        return part * machine.flops[train.precision] / trace.flops_per_image
    images = max(1, train.batch_size // max(1, train.workers) // train.micro_batches)
    passes = train.micro_batches * seconds(trace.operators, images, machine, train.precision, train.compile)
    update = UPDATE_BYTES * trace.parameters / shards / machine.bandwidth / BANDWIDTH_REACHED
    return images * train.micro_batches / (passes + update)


def utilization(config: ExperimentConfig, trace: StepTrace, speed: float, machine: Machine) -> float:
    """The part of the peak that training reaches at a speed in images per second."""
    return speed * trace.flops_per_image / machine.flops[config.train.precision]


def evaluations_per_second(
    config: ExperimentConfig, trace: StepTrace, used: float, machine: Machine, options: PlanOptions
) -> float:
    """Images per second that go forward through the network on one worker.

    Args:
        used: the part of the peak that training reaches; counts where a speed or an MFU was given, and on
            CPUs.
    """
    sampling = config.sampling
    is_given = options.mfu is not None or options.images_per_second_per_worker is not None
    if is_given or machine.bandwidth is None:
        return used * machine.flops[sampling.precision] / trace.forward_flops_per_image
    rows = sampling.batch_size * (1 if sampling.guidance.kind == "none" else 2)
    forward = trace.operators.forward()
    return rows / seconds(forward, rows, machine, sampling.precision, sampling.compile)

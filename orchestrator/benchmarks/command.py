"""The command line of jobs/benchmark.py: one subcommand per thing that is measured."""

from rich.console import Console

from orchestrator.config.command_line import run_function


def model(variant: str = "small", batch_size: int = 16, repeats: int = 5) -> None:
    """Measure the network's forward pass and training step, against the released code's way to compute them.

    Args:
        variant: small, or one of the paper's: M/3R-64, L/3R-64, XL/2R-256, XL/3R-512, G/2R-256.
        batch_size: images per step.
        repeats: measurements per case, taken in turns; the median counts.
    """
    from orchestrator.benchmarks.model import compare

    compare(variant, batch_size, repeats, Console(width=160))


def data(rows: int = 131072) -> None:
    """Measure samples/s into a training worker, against one .npy per sample and a bare read of the files.

    Args:
        rows: latents of ImageNet at 256 (16 kB each) to make and read.
    """
    from orchestrator.benchmarks.data import measure_data

    measure_data(rows, Console(width=160))


def prepare(images: int = 2000, repeats: int = 3) -> None:
    """Measure the CPU seconds of a picture that is prepared, against Pillow alone.

    Args:
        images: JPEGs of 500x375 to make, in ten folders.
        repeats: measurements per case, taken in turns; the median counts.
    """
    from orchestrator.benchmarks.prepare import measure_preparing

    measure_preparing(images, repeats, Console(width=160))


def train(
    variant: str = "small", batch_size: int = 8, workers: int = 2, repeats: int = 2, use_gpu: bool = False
) -> None:
    """Measure the training loop: with Ray and without, sharded and replicated, parts of a step, checkpoints.

    Args:
        variant: small, or one of the paper's: M/3R-64, L/3R-64, XL/2R-256, XL/3R-512, G/2R-256.
        batch_size: images per step, over all workers.
        workers: processes for sharded against replicated.
        repeats: runs per case, taken in turns; the median of their intervals counts.
        use_gpu: bf16 on GPUs instead of fp32 on CPUs.
    """
    from orchestrator.benchmarks.train import measure_training

    measure_training(variant, batch_size, workers, repeats, use_gpu, Console(width=160))


def sample(
    variant: str = "small",
    batch_size: int = 8,
    steps: int = 6,
    images: int = 24,
    repeats: int = 2,
    use_gpu: bool = False,
) -> None:
    """Measure sampling through the pipeline against the bare network, and what each kind of guidance costs.

    Args:
        variant: small, or one of the paper's: M/3R-64, L/3R-64, XL/2R-256, XL/3R-512, G/2R-256.
        batch_size: images per network call, twice that with guidance.
        steps: solver steps.
        images: images per measurement.
        repeats: measurements per case; the median counts.
        use_gpu: bf16 on a GPU instead of fp32 on one CPU core.
    """
    from orchestrator.benchmarks.sample import measure_sampling

    measure_sampling(variant, batch_size, steps, images, repeats, use_gpu, Console(width=160))


def score(extractor: str = "inception", images: int = 200, repeats: int = 2, spaces: bool = False) -> None:
    """Measure feature extraction against torch-fidelity alone, and two extractor actors against one.

    Args:
        extractor: inception (its architecture; weights do not change the speed) or efficientnet_lite0.
        images: images per measurement, a multiple of 100 (of 20 with spaces).
        repeats: measurements per case, taken in turns; the median counts.
        spaces: instead of that, one pass with three extractors against a pass for each, on images that are
            read and on images that are sampled.
    """
    if spaces:
        from orchestrator.benchmarks.spaces import measure_spaces

        measure_spaces(images, repeats, Console(width=160))
        return
    from orchestrator.benchmarks.score import measure_scoring

    measure_scoring(extractor, images, repeats, Console(width=160))


def imports(repeats: int = 5) -> None:
    """Measure the CPU seconds that each kind of process spends on imports.

    Args:
        repeats: measurements per case, taken in turns; the median counts.
    """
    from orchestrator.benchmarks.imports import measure_imports

    measure_imports(repeats, Console(width=160))


def gpu(presets: str = "", repeats: int = 5) -> None:
    """Measure one GPU with the paper's networks: training, sampling, decoding, scoring, layouts.

    Args:
        presets: names of ImageNet presets, separated by commas; empty: all of them.
        repeats: measurements per case; the median counts.
    """
    from orchestrator.benchmarks.gpu import measure_gpu

    measure_gpu(presets, repeats, Console(width=160))


def scale(planes: str = "") -> None:
    """Measure how times, bytes and messages grow from 1 to 1,024 ranks, mostly simulated on this machine.

    Args:
        planes: some of data, journal, checkpoints, parts, sweep, sharding and control, between commas; empty:
            all of them, which takes about twenty minutes.
    """
    from orchestrator.benchmarks.scale.planes import measure_scale

    measure_scale(planes, Console(width=160))


def main() -> None:
    """Run the subcommand of the command line."""
    commands = (model, data, prepare, train, sample, score, imports, gpu, scale)
    run_function({command.__name__: command for command in commands})

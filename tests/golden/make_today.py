"""Make ``tests/golden/today/`` by the jobs of a checkout.

``python tests/golden/make_today.py CHECKOUT FOLDER`` is run once, with the version whose files every later
version must read and continue. ``FOLDER`` is where the files are made, and their configs name it. What is
kept of them is then copied by hand.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

IMAGES = 60
CLASSES = 3
SIZE = 4
STOP_AFTER = 512

CONFIG = """
run: {{name: finished, root: {folder}/runs}}
data: {{path: {folder}/dataset, source: image_folder, source_path: {folder}/images, lanes: 4,
  shuffle_window: 16}}
model: {{input_size: 4, channels: 1, num_classes: 3, depths: [3, 1], widths: [16, 8], num_heads: 2}}
diffusion: {{schedule: cosine, prediction: v}}
train: {{images: 2048, batch_size: 8, learning_rate: 1.0e-3, warmup_images: 64, ema_horizon_images: 256,
  workers: 1, use_gpu: false, log_every_images: 128, checkpoint_every_images: 256,
  preview_every_images: 256, score_every_images: 512, score_images: 8, keep_checkpoints: 1}}
sampling: {{sampler: {{kind: dpm_solver_multistep, steps: 2}}, batch_size: 4, use_gpu: false}}
prepare: {{use_gpu: false}}
evaluation: {{images: 12, extractor: efficientnet_lite0}}
"""

SUITE = """
title: Time conditioning
axes:
  - name: time
    options:
      - {{name: TD-LN, changes: {{model.time_conditioning: td_layernorm}}}}
      - {{name: TD-RMSNorm}}
      - {{name: none, changes: {{model.time_conditioning: rmsnorm}}}}
scales: {{nano: [{folder}/tiny.yaml]}}
"""


def make_images(folder: Path) -> None:
    """Write grey pictures, each of its own brightness and gradient, in a folder for each class."""
    for number in range(IMAGES):
        label, ramp = number % CLASSES, np.arange(SIZE, dtype=np.uint8)
        pixels = (80 * label + number + 4 * ramp[None, :] + np.uint8(2) * ramp[:, None]).astype(np.uint8)
        path = folder / f"class{label}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def run(checkout: Path, *command: str) -> None:
    """Run a job to its end."""
    subprocess.run([sys.executable, *command], cwd=checkout, env=environment(checkout), check=True)


def stop(checkout: Path, when: Callable[[], bool], by: int, *command: str) -> None:
    """Start a job, and send it the signal ``by`` when the condition holds."""
    job = subprocess.Popen(
        [sys.executable, *command], cwd=checkout, env=environment(checkout), start_new_session=True
    )
    while not when():
        if job.poll() is not None:
            raise RuntimeError("the job ended before it could be stopped")
        time.sleep(0.01)
    if by == signal.SIGKILL:
        os.killpg(job.pid, by)
    else:
        job.send_signal(by)
    job.wait()


def environment(checkout: Path) -> dict[str, str]:
    """The environment in which a job uses the checkout's own packages, whatever else is installed."""
    return os.environ | {"PYTHONPATH": str(checkout)}


def main() -> None:
    """Make a dataset, a finished run, an interrupted one and an interrupted sweep."""
    checkout, folder = Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute()
    make_images(folder / "images")
    config, suite, runs = folder / "tiny.yaml", folder / "suite.yaml", folder / "runs"
    config.write_text(CONFIG.format(folder=folder))
    suite.write_text(SUITE.format(folder=folder))
    run(checkout, "jobs/prepare_latents.py", "--config", str(config))
    run(checkout, "jobs/train_g.py", "--config", str(config))
    marker = runs / "interrupted" / "checkpoints" / str(STOP_AFTER) / "COMPLETE.json"
    train = ("jobs/train_g.py", "--config", str(config), "--run.name", "interrupted")
    stop(checkout, marker.exists, signal.SIGINT, *train)
    trials = runs / "sweep" / "trials"

    def is_midway() -> bool:
        finished = {path.parent for path in trials.glob("*/metrics.json")}
        begun = {path.parents[2] for path in trials.glob("*/checkpoints/*/COMPLETE.json")}
        return bool(finished) and bool(begun - finished)

    ablate = ("jobs/ablate.py", "--suite", str(suite), "--run.name", "sweep")
    options = ("--prune", "false", "--finalists", "1", "--seeds", "1")
    stop(checkout, is_midway, signal.SIGKILL, *ablate, *options)


if __name__ == "__main__":
    main()

"""Train a DiMR, sample from it and score it: ``python jobs/train_g.py --config quickstart``.

Without --config it is DiMR-G/2R on ImageNet 256x256, the paper's largest model.
"""

from orchestrator.config.command_line import run_job
from orchestrator.run.experiment import run_experiment

if __name__ == "__main__":
    run_job(run_experiment, "Train a DiMR, sample from it and score it.", default="imagenet256_g2r")

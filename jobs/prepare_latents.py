"""Make the dataset that a config trains on: ``python jobs/prepare_latents.py --config quickstart``."""

from orchestrator.commands import run_job
from orchestrator.latents.prepare import prepare_and_report

if __name__ == "__main__":
    run_job(prepare_and_report, "Make the dataset that a config trains on.", default="imagenet256_g2r")

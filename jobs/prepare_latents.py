"""Make the dataset that a config trains on: ``python jobs/prepare_latents.py --config quickstart``.

``python jobs/prepare_latents.py verify PATH`` reads one through and says what is in it.
"""

import sys

from orchestrator.config.command_line import run_function, run_job
from orchestrator.data.prepare import prepare_and_report
from orchestrator.data.verify import verify

if __name__ == "__main__":
    if sys.argv[1:2] == ["verify"]:
        run_function(verify, sys.argv[2:])
    else:
        run_job(prepare_and_report, "Make the dataset that a config trains on.", default="imagenet256_g2r")

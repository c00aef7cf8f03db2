"""Make the dataset that a config trains on: ``python jobs/prepare_latents.py --config quickstart``.

``python jobs/prepare_latents.py look SOURCE`` says what is in a source before anything is made of it, and
``verify PATH`` reads one through and says what is in it.
"""

import sys

from orchestrator.config.command_line import run_function, run_job
from orchestrator.data.look import look
from orchestrator.data.prepare import prepare_and_report
from orchestrator.data.verify import verify

if __name__ == "__main__":
    if sys.argv[1:2] in (["look"], ["verify"]):
        run_function({"look": look, "verify": verify})
    else:
        description = "Make a config's dataset. Other commands, with a --help of their own: look, verify."
        run_job(prepare_and_report, description, default="imagenet256_g2r")

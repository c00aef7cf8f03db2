"""Training and evaluating DiMR models on Ray: data, training, scores and tracking around :mod:`dimr_model`."""

import os

# Read by Ray when it is imported. A driver started by `uv run` would otherwise make Ray build a second environment for
# its workers; ours run in the driver's own environment (a cluster's image has one). Set it to 1 to have Ray do that.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
# A training worker that does not answer for so long is given up, and the group started again; Ray waits ten minutes.
os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "120")
# Tune's newer output prints a header, and a temporary folder as the place of the results, even where it is told to be silent.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

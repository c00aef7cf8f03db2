"""Train and evaluate DiMR models on Ray: data, training, scores and tracking around :mod:`dimr_model`."""

import os

# Ray reads these when it is imported. A driver started by `uv run` would otherwise make Ray build a second
# environment for its workers. Ours run in the driver's own environment (a cluster's image has one); 1 has Ray
# build it.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
# How long the parts of an embedded Ray may take to start: five minutes in place of half a minute or one.
os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "300")
os.environ.setdefault("RAY_DASHBOARD_STARTUP_TIMEOUT_S", "300")
os.environ.setdefault("RAY_agent_register_timeout_ms", "300000")
# Ray does not see that a process of its own died while it started, before this time is over.
os.environ.setdefault("RAY_worker_register_timeout_seconds", "120")
# Without this, connecting waits for the first of these processes, and for ever where it dies.
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
# Where memory runs out, Ray would try a task again without end.
os.environ.setdefault("RAY_task_oom_retries", "10")
# A training worker that does not answer for so long is given up, and the group is started again; Ray's own
# default is ten minutes.
os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "120")
# Even where it is told to be silent, Tune's newer output prints a header, and a temporary folder as the place
# of the results.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

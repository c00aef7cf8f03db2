#!/usr/bin/env bash
#SBATCH --job-name=dimr
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --signal=B:TERM@300
# A Ray cluster inside of a Slurm allocation, and one job of ours on it:
#   sbatch cluster/slurm/run.sh jobs/train_g.py --config imagenet256_g2r --train.workers 64 --run.root /shared/runs
# Five minutes before the time is up, the job gets SIGTERM, writes a checkpoint and ends; queued again, the same command continues.
# Where Slurm preempts jobs it needs a GraceTime and SlurmctldParameters=preempt_send_user_signal, else it kills Ray and not the job.
# Run it from the repository, whose environment (.venv) every node must see.
# The exit code is the job's: 130 after a checkpoint, as it is not finished; `sbatch --dependency=afternotok:ID` goes on after it.
# What srun says of killed tasks at the end is the cluster being ended.
set -euo pipefail
: "${1:?a job and its options, such as jobs/train_g.py --config imagenet256_g2r}"

export PATH="$PWD/.venv/bin:$PATH"
# As Ray finds it by itself: the name of a machine may stand for 127.0.1.1 on it.
head_address=$(python -c 'import ray; print(ray.util.get_node_ip_address())')
export RAY_ADDRESS="$head_address:$((20000 + SLURM_JOB_ID % 10000))"

# One token for this allocation only, which only this user can read.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$PWD/.ray-token-$SLURM_JOB_ID"
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"; kill "${cluster-}" 2>/dev/null || true' EXIT
(umask 077 && head -c 32 /dev/urandom | base64 >"$RAY_AUTH_TOKEN_PATH")

# The head starts Ray's services; every node, the head's too, computes. Without the head all end, any other is started again.
# shellcheck disable=SC2016  # Each node has its own values.
srun --overlap --kill-on-bad-exit bash -c '
  # A folder of its own, because another user may own /tmp/ray here.
  options=(--block --num-cpus="$SLURM_CPUS_ON_NODE" --temp-dir="${RAY_TMPDIR:-/tmp}/ray-$SLURM_JOB_ID-$SLURM_NODEID")
  if [ "$SLURM_NODEID" = 0 ]; then
    exec ray start "${options[@]}" --head --node-ip-address="${RAY_ADDRESS%:*}" --port="${RAY_ADDRESS##*:}" \
      --dashboard-host=127.0.0.1 --disable-usage-stats
  fi
  until ray start "${options[@]}" --address="$RAY_ADDRESS"; do sleep 2; done
' &
cluster=$!

all_nodes='
import sys, ray
ray.init(log_to_driver=False, logging_level="ERROR")
nodes = sum(node["Alive"] for node in ray.nodes())
if nodes < int(sys.argv[1]):
    sys.exit(1)
cpus, gpus = (ray.cluster_resources().get(kind, 0) for kind in ("CPU", "GPU"))
print(f"Ray has {nodes} nodes, {cpus:g} CPUs and {gpus:g} GPUs.")
'
# The job sees what is there when it starts, so it waits for all; SIGTERM ends the waiting too.
(
  until python -c "$all_nodes" "$SLURM_JOB_NUM_NODES" 2>/dev/null; do
    if ! kill -0 "$cluster" 2>/dev/null || ((SECONDS > 900)); then
      echo "Ray has not started on all $SLURM_JOB_NUM_NODES nodes." >&2
      exit 1
    fi
    sleep 2
  done
  exec python "$@"
) &
job=$!
# Once: a second one would have the job end without a checkpoint.
trap 'trap "" TERM; kill -TERM "$job"' TERM
# The first wait ends when the signal comes, the second when the job has written its checkpoint.
wait "$job" || wait "$job"

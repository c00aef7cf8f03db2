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
# Five minutes before the time is up, and when Slurm takes the nodes away, the job gets SIGTERM, writes a checkpoint and ends; queued
# again, the same command continues. Run it from the repository, whose environment (.venv) every node must see.
set -euo pipefail
: "${1:?a job and its options, such as jobs/train_g.py --config imagenet256_g2r}"

export PATH="$PWD/.venv/bin:$PATH"
port=$((20000 + SLURM_JOB_ID % 10000))
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
head_address=$(srun --nodes=1 --ntasks=1 --nodelist="$head_node" hostname --ip-address | awk '{print $1}')

# One token for this allocation only, which only this user can read.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$PWD/.ray-token-$SLURM_JOB_ID"
(umask 077 && head -c 32 /dev/urandom | base64 >"$RAY_AUTH_TOKEN_PATH")
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"; kill "$cluster" 2>/dev/null || true' EXIT

# The head starts Ray's services; every node, the head's too, computes.
srun --overlap bash -c '
  if [ "$SLURM_NODEID" = 0 ]; then
    exec ray start --block --head --node-ip-address="$0" --port="$1" --dashboard-host=127.0.0.1 --disable-usage-stats
  fi
  until ray start --block --address="$0:$1"; do sleep 2; done
' "$head_address" "$port" &
cluster=$!
until RAY_ADDRESS="$head_address:$port" ray status >/dev/null 2>&1; do sleep 2; done

RAY_ADDRESS="$head_address:$port" python "$@" &
job=$!
trap 'kill -TERM "$job"' TERM
# The first wait ends when the signal comes, the second when the job has written its checkpoint.
wait "$job" || wait "$job"

#!/usr/bin/env bash
# A study on Slurm: one Ray head without runs, one Ray worker per node, then `study launch` beside the head.
#
#   sbatch --nodes=4 --gpus-per-node=4 --time=24:00:00 deploy/slurm.sh my-study.yaml --storage /shared/study
#
# Everything after the script's name goes to `study launch`; --storage must be a folder that all nodes see, or a URL. When time
# runs out, or the job is preempted, running runs write their checkpoints and the job asks to be queued again (--requeue).
# The same sbatch line later goes on where this one ended.
#
#SBATCH --job-name=diffusion-study
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
set -euo pipefail
umask 077

: "${SLURM_JOB_ID:?this script is for sbatch; on bare machines use deploy/bare.sh}"
[ "$#" -ge 1 ] || { echo "usage: sbatch [...] deploy/slurm.sh FILE [KEY=VALUE]... --storage FOLDER_OR_URL" >&2; exit 2; }

SETUP=${STUDY_SETUP:-}                          # a file to source on every node: modules, a virtual environment
SHARED=${STUDY_JOB_FOLDER:-$HOME/.diffusion-study/slurm-$SLURM_JOB_ID}   # a folder that all nodes of the job see
PORT=${STUDY_RAY_PORT:-$((20000 + SLURM_JOB_ID % 2500 * 4))}             # and the three above it: jobs may share a machine
WAIT_SECONDS=${STUDY_WAIT_SECONDS:-300}
[ -z "$SETUP" ] || . "$SETUP"

# The token is made for this job, read by this user alone, and gone with the job. It stands in no argument, no variable.
mkdir -p "$SHARED"
chmod 700 "$SHARED"
python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$SHARED/token"
chmod 600 "$SHARED/token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$SHARED/token"
unset RAY_AUTH_TOKEN RAY_ADDRESS
export RAY_TMPDIR=/tmp/study-$SLURM_JOB_ID      # of every node; the path of a socket must be short
export RAY_USAGE_STATS_ENABLED=0 OMP_WAIT_POLICY=passive

# The address of the private network, as the other nodes know it; the first one if there are several.
mapfile -t NODES < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
HEAD=${NODES[0]}
HEAD_IP=$(srun --nodes=1 --ntasks=1 --overlap --nodelist="$HEAD" bash -c \
    '{ getent ahostsv4 "$(hostname)" | cut -d" " -f1; hostname -I | tr " " "\n"; } | grep -v "^127\.\|:\|^$" | head -n 1' || true)
HEAD_IP=${STUDY_HEAD_IP:-${HEAD_IP:?the head has no address but loopback; set STUDY_HEAD_IP}}
ADDRESS=$HEAD_IP:$PORT

STEPS=()
DRIVER=
cleanup() {
    trap - EXIT INT TERM USR1
    for step in "${STEPS[@]}"; do kill "$step" 2>/dev/null || true; done
    for step in "${STEPS[@]}"; do wait "$step" 2>/dev/null || true; done
    srun --nodes="${#NODES[@]}" --ntasks="${#NODES[@]}" --ntasks-per-node=1 --overlap rm -rf "$RAY_TMPDIR" || true
    rm -rf "$SHARED"
}
# Time is nearly over, or the job is preempted or cancelled: the driver ends in order, then all of Ray.
graceful() {
    echo "signal: the study ends, and its runs keep their checkpoints" >&2
    [ -z "$DRIVER" ] || kill -TERM "$DRIVER" 2>/dev/null || true
}
requeue() {
    REQUEUE=1
    graceful
}
REQUEUE=
trap cleanup EXIT
trap graceful INT TERM
trap requeue USR1

# Runs in a step of its own on one node, and ends with it. $1: node, the rest: words of `ray start`.
start_ray() {
    local node=$1
    shift
    srun --nodes=1 --ntasks=1 --overlap --exact --kill-on-bad-exit=0 --nodelist="$node" --cpu-bind=none \
        bash -c "$ON_A_NODE" ray "$@" &
    STEPS+=("$!")
}
export STUDY_SETUP=$SETUP
ON_A_NODE='
umask 077
[ -z "$STUDY_SETUP" ] || . "$STUDY_SETUP"
mkdir -p "$RAY_TMPDIR"
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"
exec ray start --block "$@"'

CPUS=${SLURM_CPUS_PER_TASK:-$(nproc)}
GPUS=${SLURM_GPUS_ON_NODE:-0}
# The head's own Ray takes no runs; a worker beside it, on the same node, does.
start_ray "$HEAD" --head --node-ip-address="$HEAD_IP" --port="$PORT" --num-cpus=0 --num-gpus=0 \
    --include-dashboard=false --object-store-memory=200000000 --disable-usage-stats \
    --ray-client-server-port=$((PORT + 1)) --dashboard-agent-listen-port=$((PORT + 2)) \
    --min-worker-port=0 --max-worker-port=0

# Waits until so many nodes are alive, and fails if a step of ours dies meanwhile.
wait_for() {
    local wanted=$1 until=$((SECONDS + WAIT_SECONDS)) alive=0
    while :; do
        alive=$(python -c '
import sys
from ray._raylet import GcsClient
try:
    nodes = GcsClient(address=sys.argv[1]).get_all_node_info(timeout=5).values()
    print(sum(node.state == 0 for node in nodes))
except Exception:
    print(0)' "$ADDRESS" 2>/dev/null || echo 0)
        [ "$alive" -lt "$wanted" ] || return 0
        for step in "${STEPS[@]}"; do
            kill -0 "$step" 2>/dev/null || { echo "error: Ray ended on a node while $alive of $wanted were there; its log is above" >&2; return 1; }
        done
        [ "$SECONDS" -lt "$until" ] || { echo "error: $alive of $wanted nodes after $WAIT_SECONDS seconds (STUDY_WAIT_SECONDS)" >&2; return 1; }
        sleep 1
    done
}
wait_for 1
for node in "${NODES[@]}"; do
    start_ray "$node" --address="$ADDRESS" --num-cpus="$CPUS" --num-gpus="$GPUS" --object-store-memory=200000000 \
        --dashboard-agent-listen-port=$((PORT + 3)) --min-worker-port=0 --max-worker-port=0
done
wait_for $((${#NODES[@]} + 1))
echo "Ray: ${#NODES[@]} nodes with $CPUS CPUs and $GPUS GPUs each, at $ADDRESS" >&2

study launch "$@" --address "$ADDRESS" &
DRIVER=$!
# A signal breaks off the waiting; the driver has the last word.
CODE=0
wait "$DRIVER" || CODE=$?
while kill -0 "$DRIVER" 2>/dev/null; do wait "$DRIVER" && CODE=0 || CODE=$?; done
if [ -n "$REQUEUE" ] && [ "$CODE" -ne 0 ]; then
    scontrol requeue "$SLURM_JOB_ID" || echo "not queued again: submit the same line to go on" >&2
fi
exit "$CODE"

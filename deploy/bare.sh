#!/usr/bin/env bash
# Bare machines: starts and stops Ray on one machine. Run it as one user on each; the project is installed on all of them.
#
#   deploy/bare.sh token                        once, on the head: makes ~/.ray/auth_token (0600)
#   scp ~/.ray/auth_token WORKER:.ray/          to every worker, over SSH; then: chmod 600
#   deploy/bare.sh head 10.0.0.1                on the head: the address of its private network
#   deploy/bare.sh worker 10.0.0.1 [ADDRESS]    on every worker; its own private address if it has several
#   study launch my-study.yaml --address 10.0.0.1:6379 --storage /shared/study       on the head
#   deploy/bare.sh stop                         on every machine
#
# Between the machines all ports must be open, to others none: Ray asks for the token, but encrypts nothing (SECURITY.md).
set -euo pipefail
umask 077
PORT=${STUDY_RAY_PORT:-6379}
TOKEN=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
usage() { sed -n '2,12p' "$0" | cut -c3- >&2; exit 2; }

needs_token() {
    [ -s "$TOKEN" ] || { echo "error: no token in $TOKEN; make one on the head (deploy/bare.sh token) and copy it here" >&2; exit 2; }
    [ -z "$(find "$TOKEN" -perm /077)" ] || { echo "error: others may read $TOKEN; run: chmod 600 $TOKEN" >&2; exit 2; }
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$TOKEN RAY_USAGE_STATS_ENABLED=0
    unset RAY_AUTH_TOKEN RAY_ADDRESS
    ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"
}

case "${1:-}" in
    token)
        [ ! -e "$TOKEN" ] || { echo "error: $TOKEN is there already; remove it first to have another" >&2; exit 2; }
        mkdir -p "$(dirname "$TOKEN")"
        python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$TOKEN"
        echo "made $TOKEN; copy it to every worker over SSH" ;;
    head)
        [ "$#" -eq 2 ] || usage
        needs_token
        # No run trains on the head, and the dashboard listens on loopback: ssh -L 8265:127.0.0.1:8265 HEAD
        exec ray start --head --node-ip-address="$2" --port="$PORT" --num-cpus=0 --num-gpus=0 \
            --dashboard-host=127.0.0.1 --object-store-memory=200000000 --disable-usage-stats ;;
    worker)
        [ "$#" -eq 2 ] || [ "$#" -eq 3 ] || usage
        needs_token
        exec ray start --address="$2:$PORT" ${3:+--node-ip-address="$3"} --object-store-memory=200000000 ;;
    stop)
        exec ray stop ;;
    *)
        usage ;;
esac

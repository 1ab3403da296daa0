#!/usr/bin/env bash
# Train all generators further, at once, on one GPU: tools/train_together.sh MINUTES [DEVICE].
#
# Each begins with the weights that ship and learns by the clock; the autoencoder has a third of the minutes, then
# mini-sd the rest. One training alone leaves a large GPU idle for half of the time, between its kernels. Everything
# goes into runs; nothing is published. Ctrl-C stops all; the same command goes on. PYTHON names the interpreter, BATCH
# the pictures of a step.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# -ge 1 ] || { echo "give the minutes: $0 MINUTES [DEVICE]" >&2; exit 2; }
case $1 in *[!0-9.]* | '' | *.*.* | .) echo "give a number of minutes, not '$1'" >&2; exit 2 ;; esac
minutes=$1 device=${2:-cuda} python=${PYTHON:-.venv/bin/python} batch=${BATCH:-256}

train() { # a shell of its own, which outlives the signal until its training has ended
  trap : TERM
  "$python" -m lsvd train "$1" --from-shipped --by-clock --minutes "$2" --batch "$3" --device "$device" \
    >"runs/$1.log" 2>&1 || { echo "$1 did not get to its end: see runs/$1.log" >&2; return 1; }
  echo "$1: $(grep 'pictures/s' "runs/$1.log" | tail -1)"
}

mkdir -p runs
# Ctrl-C does not reach what a script runs in the background; on SIGTERM each training keeps where it is
trap 'trap "" TERM; kill -TERM 0; wait; exit 130' INT TERM
first=$("$python" -c "print($minutes / 3)") rest=$("$python" -c "print($minutes * 2 / 3)")
{ train autoencoder "$first" "$(( (batch + 7) / 8 ))" && train mini-sd "$rest" "$batch"; } &
jobs=$!
for name in mini-cats mini-portraits mini-churches; do
  train "$name" "$minutes" "$batch" &
  jobs="$jobs $!"
done
status=0
for job in $jobs; do wait "$job" || status=1; done
exit $status

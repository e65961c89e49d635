#!/usr/bin/env bash
# The whole comparison on the GPU that is here, in under 8 minutes, with the jax and torch that are here.
#
#   triptych/bench/accelerator.sh                  results in $OUT, default docs/bench-results/<device>-<date>
#   triptych/bench/accelerator.sh --device cpu     the same course, reduced, on this CPU: shows that it runs
#   PYTHON=python3.12 MINUTES=6 OUT=/tmp/gpu triptych/bench/accelerator.sh
#
# A framework that is missing or finds no GPU is left out, and the log says so. Writes log.txt, and NAME.json, NAME.png
# and NAME.md of each part. A JSON is written anew after each process, so what was measured stays when the script is
# stopped. Exit code: the bench's (0, 1 rows refused or failed, 2 a mistake).
set -euo pipefail
cd "$(dirname "$0")/../.."

PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
MINUTES=${MINUTES:-7}
device=gpu
if [ "${1:-}" = --device ]; then device=${2:-}; shift 2; fi
if [ $# -gt 0 ] || ! [[ $device =~ ^(cpu|gpu)$ && $MINUTES =~ ^[1-9][0-9]*$ ]]; then
  echo "error: expected --device gpu or cpu, and MINUTES a whole number of at least 1 (it is $MINUTES)" >&2
  exit 2
fi
name=$device
if [ "$device" = gpu ] && command -v nvidia-smi >/dev/null; then
  name=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1 | tr -cs 'A-Za-z0-9\n' '-')
fi
OUT=${OUT:-docs/bench-results/$name-$(date +%Y-%m-%d)}
mkdir -p "$OUT"
exec > >(tee "$OUT/log.txt") 2>&1

worst=0
left() { echo $((MINUTES * 60 - SECONDS)); }
bench() { "$PYTHON" -m triptych bench "$@"; }
ended() {  # NAME CODE
  [ "$2" -le "$worst" ] || worst=$2
  echo "== $1: exit code $2, $(left) s left"
}
# NAME SHARE ARGUMENTS...: one bench, within SHARE percent of the minutes; its files begin with NAME.
measure() {
  local file=$OUT/$1 part=$1 code=0 minutes
  minutes=$(awk "BEGIN {print $MINUTES * $2 / 100}")
  shift 2
  echo "== $part: at most $minutes minutes: $*"
  bench --device "$device" --minutes "$minutes" --json "$file.json" --variants $variants "$@" || code=$?
  if [ "$code" -eq 2 ]; then exit 2; fi
  bench table "$file.json" > "$file.md"
  bench picture "$file.json" "$file.png"
  ended "$part" "$code"
}
finds() { "$PYTHON" -c "$2" 2>/dev/null || { echo "$1 left out: not installed, or it finds no $device"; return 1; }; }

echo "device: $name; results: $OUT; $("$PYTHON" --version)"
variants=""
finds jax "import flax, jax, optax; jax.devices('$device')" && variants="jax"
finds torch "import torch; assert '$device' == 'cpu' or torch.cuda.is_available()" && variants+=" torch-best"
[ "$device" = gpu ] && [[ $variants == *torch* ]] && variants+=" torch-graphs"
[ -n "$variants" ] || { echo "error: neither jax nor torch finds a $device here; try --device cpu" >&2; exit 2; }

if [ "$device" = gpu ]; then
  three="--precisions float32 tf32 bfloat16"
  measure fig1 15 --models fig1 --precisions float32 tf32 --repeats 3 --calls 5
  measure size11-bn 20 --models size11-bn $three --repeats 2 --calls 5
  measure cnn-32 25 --models cnn --batches 32 $three --repeats 2 --calls 4
  measure cnn-full 30 --models cnn --batches 2048 $three --repeats 2 --calls 4
  grid=(--runs 20 --calls 1 --repeats 3)  # all of one size's runs of table 1; a call, and twenty alone, last seconds
else
  measure fig1 20 --models fig1 --quick
  measure size11-bn 20 --models size11-bn --precisions float32 bfloat16 --quick
  measure cnn-32 40 --models cnn --batches 32 --quick
  grid=(--runs 4 --calls 1 --repeats 1)
fi
if [ "$(left)" -gt 20 ]; then
  code=0
  timeout "$(left)" "$PYTHON" -m triptych bench sweep "${grid[@]}" --device "$device" --json "$OUT/grid.json" || code=$?
  ended grid "$code"
else
  echo "== grid: not measured, no time left"
fi
echo "results in $OUT, $SECONDS s"
exit "$worst"

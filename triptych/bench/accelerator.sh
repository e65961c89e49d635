#!/usr/bin/env bash
# The whole comparison on the GPU that is here, in under 8 minutes, with the jax and torch that are here.
#
#   triptych/bench/accelerator.sh                  results in $OUT, default docs/bench-results/<device>-<date>
#   triptych/bench/accelerator.sh --device cpu     the same course, reduced, on this CPU: shows that it runs
#   PYTHON=python3.12 MINUTES=6 OUT=/tmp/gpu triptych/bench/accelerator.sh
#
# Needs numpy, tyro, tqdm, safetensors and matplotlib, and of jax (with flax and optax) and torch at least one; a
# framework that is missing or finds no GPU is left out, and the log says so.
# Writes log.txt, and NAME.json, NAME.png and NAME.md of each part. A JSON is written anew after each process, so what
# was measured stays when the script is stopped. Exit code: the bench's (0, 1 rows refused or failed, 2).
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
MINUTES=${MINUTES:-7}
if ! [[ $MINUTES =~ ^[1-9][0-9]*$ ]]; then
  echo "error: MINUTES: expected a whole number of at least 1, got $MINUTES" >&2
  exit 2
fi
device=gpu
if [ "${1:-}" = --device ]; then device=${2:?--device needs gpu or cpu}; shift 2; fi
if [ $# -gt 0 ] || { [ "$device" != gpu ] && [ "$device" != cpu ]; }; then
  echo "error: expected no arguments, --device gpu or --device cpu" >&2
  exit 2
fi

# A name of letters, digits and dashes.
if [ "$device" = gpu ] && command -v nvidia-smi >/dev/null; then
  name=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)
else
  name=$device
fi
name=$(echo "$name" | tr -cs 'A-Za-z0-9\n' '-')
OUT=${OUT:-docs/bench-results/$name-$(date +%Y-%m-%d)}
mkdir -p "$OUT"
exec > >(tee "$OUT/log.txt") 2>&1

started=$SECONDS
left() { echo $((MINUTES * 60 - (SECONDS - started))); }
worst=0

# measure NAME SHARE ARGUMENTS...: one bench, within SHARE percent of the minutes; its files begin with NAME.
measure() {
  local file=$1 share=$2 minutes code=0
  shift 2
  minutes=$(awk "BEGIN {print $MINUTES * $share / 100}")
  echo "== $file: at most $minutes minutes: $*"
  "$PYTHON" -m bench --device "$device" --minutes "$minutes" --json "$OUT/$file.json" \
    --plot "$OUT/$file.png" "$@" || code=$?
  if [ "$code" -eq 2 ]; then exit 2; fi
  [ -s "$OUT/$file.json" ] && "$PYTHON" -m bench table "$OUT/$file.json" > "$OUT/$file.md"
  [ "$code" -le "$worst" ] || worst=$code
  echo "== $file: exit code $code, $(left) s left"
}

echo "device: $name; results: $OUT; $("$PYTHON" --version)"
"$PYTHON" -c 'import matplotlib, numpy, safetensors, tqdm, tyro' || {
  echo "error: install numpy, tyro, tqdm, safetensors and matplotlib for $PYTHON (requirements.txt)" >&2
  exit 2
}
variants=""
if "$PYTHON" -c "import flax, jax, optax; jax.devices('$device')" 2>/dev/null; then
  variants="jax"
else
  echo "jax left out: not installed with flax and optax, or it finds no $device"
fi
if "$PYTHON" -c "import sys, torch; sys.exit('$device' == 'gpu' and not torch.cuda.is_available())" 2>/dev/null; then
  variants="$variants torch-best"
  if [ "$device" = gpu ]; then variants="$variants torch-graphs"; fi
else
  echo "torch left out: not installed, or it finds no $device"
fi
if [ -z "$variants" ]; then
  echo "error: neither jax nor torch finds a $device here; triptych/bench/accelerator.sh --device cpu runs without one" >&2
  exit 2
fi
if [ "$device" = gpu ]; then
  precisions="float32 tf32 bfloat16"
  # shellcheck disable=SC2086
  {
    measure fig1 15 --models fig1 --precisions float32 tf32 --variants $variants --repeats 3 --calls 5
    measure size11-bn 20 --models size11-bn --precisions $precisions --variants $variants --repeats 2 --calls 5
    measure cnn-32 25 --models cnn --batches 32 --precisions $precisions --variants $variants --repeats 2 --calls 4
    measure cnn-full 30 --models cnn --batches 2048 --precisions $precisions --variants $variants \
      --repeats 2 --calls 4
  }
else
  # shellcheck disable=SC2086
  {
    measure fig1 20 --models fig1 --variants $variants --quick
    measure size11-bn 20 --models size11-bn --precisions float32 bfloat16 --variants $variants --quick
    measure cnn-32 40 --models cnn --batches 32 --variants $variants --quick
  }
fi

# Table 1's grid as one program: all of one size's twenty runs; on a CPU a few, once. One call of the sweep, and so
# twenty of one run at a time, lasts seconds.
if [ "$device" = gpu ]; then grid=(--runs 20 --calls 1 --repeats 3); else grid=(--runs 4 --calls 1 --repeats 1); fi
if [ "$(left)" -gt 20 ]; then
  code=0
  timeout "$(left)" "$PYTHON" -m triptych.bench.sweep "${grid[@]}" --device "$device" --json "$OUT/grid.json" || code=$?
  [ "$code" -le "$worst" ] || worst=$code
  echo "== grid: exit code $code"
else
  echo "== grid: not measured, no time left"
fi

echo "results in $OUT, $((SECONDS - started)) s"
exit "$worst"

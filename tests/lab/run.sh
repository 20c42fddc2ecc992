#!/bin/bash
# Runs the lab tests. On the host: boots two throw-away kernels at once, each with its share of the test files, or, with
# arguments, one kernel with these as pytest's arguments. Inside the kernel: is pytest.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [[ ${THINPOOLMGR_LAB:-} ]]; then
    # the checkout is read-only in here
    export HYPOTHESIS_STORAGE_DIRECTORY=/lab/hypothesis
    exec python3 -m pytest "$@"
fi

in_guest() {
    thinpoolmgr lab run --docker --memory 2048 --timeout 1200 tests/lab/run.sh "$@"
}

(($#)) && { in_guest "$@"; exit; }

thinpoolmgr lab root >/dev/null
# long files tend to hold long tests: dealt out by size, the two shares take about the same time
mapfile -t files < <(find tests/lab -name 'test_*.py' -printf '%s %p\n' | sort -rn | cut -d' ' -f2)
first=() second=()
for i in "${!files[@]}"; do
    case $((i % 4)) in 0 | 3) first+=("${files[i]}") ;; *) second+=("${files[i]}") ;; esac
done
((${#second[@]})) || { in_guest "${first[@]}"; exit; }

output=$(mktemp)
in_guest "${second[@]}" >"$output" 2>&1 &
other=$!
trap 'kill "$other" 2>/dev/null || true; wait "$other" || true; rm -f "$output"' EXIT
code=0
in_guest "${first[@]}" || code=$?
echo
echo "-- the second kernel, which ran at the same time"
trap 'kill "$other" "${tail:-}" 2>/dev/null || true; rm -f "$output"' EXIT
tail --lines=+1 --follow --pid="$other" "$output" &
tail=$!
wait "$other" || code=$?
wait "$tail" || true
trap 'rm -f "$output"' EXIT
exit "$code"

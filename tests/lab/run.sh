#!/bin/bash
# Runs the lab tests. On the host: boots two throw-away kernels at once, each with its share of the test files, and one
# with systemd for those that need it; or, with arguments, one kernel with these as pytest's arguments. Inside the
# kernel: is pytest.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [[ ${THINPOOLMGR_LAB:-} ]]; then
    # the checkout is read-only in here
    export HYPOTHESIS_STORAGE_DIRECTORY=/lab/hypothesis
    exec python3 -m pytest "$@"
fi

in_guest() {
    thinpoolmgr lab run --docker --memory 2500 --timeout 1200 tests/lab/run.sh "$@"
}

under_systemd() {
    thinpoolmgr lab run --docker --systemd --memory 2500 --timeout 600 tests/lab/run.sh "$@"
}

[[ ${1:-} == --systemd ]] && { under_systemd "${@:2}"; exit; }
(($#)) && { in_guest "$@"; exit; }

thinpoolmgr lab root >/dev/null
# long files tend to hold long tests: dealt out by size, the two shares take about the same time
mapfile -t files < <(find tests/lab -maxdepth 1 -name 'test_*.py' -printf '%s %p\n' | sort -rn | cut -d' ' -f2)
first=() second=()
for i in "${!files[@]}"; do
    case $((i % 4)) in 0 | 3) first+=("${files[i]}") ;; *) second+=("${files[i]}") ;; esac
done
output=$(mktemp)
{
    code=0
    in_guest "${second[@]}" || code=$?
    under_systemd tests/lab/systemd || code=$?
    exit "$code"
} >"$output" 2>&1 &
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

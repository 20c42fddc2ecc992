#!/bin/bash
# Runs the lab tests. On the host: a throw-away kernel for each test file, two at a time, and one with systemd for those
# that need it; or, with arguments, one kernel with these as pytest's arguments. With the one argument `campaign` it runs
# the tests that take too long for every run. Inside the kernel: is pytest.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [[ ${THINPOOLMGR_LAB:-} ]]; then
    # the checkout is read-only in here
    export HYPOTHESIS_STORAGE_DIRECTORY=/lab/hypothesis
    exec python3 -m pytest --durations=3 "$@"
fi

in_guest() {
    local options=()
    [[ $1 == tests/lab/systemd* ]] && options=(--systemd)
    thinpoolmgr lab run --docker --memory 2500 --timeout 1200 "${options[@]}" tests/lab/run.sh "$@"
}

case $* in
    '' | campaign) ;;
    *) in_guest "$@"; exit ;;
esac

# two write at the same time: what a kernel said is shown when it has ended
show_in_one_piece() {
    local said code=0 begun=$SECONDS
    said=$(in_guest "$@" 2>&1) || code=$?
    flock "$lock" printf '%s\n== %s: %d s\n' "$said" "$*" $((SECONDS - begun))
    return "$code"
}

thinpoolmgr lab root >/dev/null
lock=$(mktemp)
trap 'rm -f "$lock"' EXIT
export lock
export -f in_guest show_in_one_piece
if [[ ${1:-} == campaign ]]; then
    # of systemd's, too, each has a kernel: together they would take longer than one may
    grep -l campaign tests/lab/systemd/test_*.py tests/lab/test_*.py | sed 's/$/ -m campaign/'
else
    # long files tend to hold long tests: begun first, they do not keep the last one waiting
    printf '%s\n' tests/lab/test_parity{,_changed,_cut_short}.py
    echo tests/unit -m root
    echo tests/lab/systemd
    # files of the campaign alone would boot a kernel for nothing
    find tests/lab -maxdepth 1 -name 'test_*.py' ! -name 'test_parity*' -printf '%s %p\n' | sort -rn | cut -d' ' -f2 |
        xargs grep -L '^pytestmark = pytest.mark.campaign'
fi | xargs -P 2 -I{} bash -euo pipefail -c 'show_in_one_piece {}'

#!/usr/bin/env bash
# Passes every test, on a fresh Debian 12 too: it installs what is missing.
#
#   tests/run.sh              format, lints, all tests
#   tests/run.sh long         lists the longer proofs
#   tests/run.sh long NAME    runs one
#
# With CI=true a test that cannot run for want of a tool fails; else it says that it was skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Longer proofs: name, test binary, filter, what it shows.
readonly LONG=(
    "capture|db|capture::figures|what capture adds to a commit, by a real MariaDB"
    "failover|e2e|failover::acknowledged_writes_survive_many|fifteen leaders killed under load, nothing acknowledged lost"
    "model|model|long|the rules of forks and merges: a billion steps of walks, and breadth-first as memory goes"
    "transport|edge|transport::measure|latency and throughput of the peers' streams"
    "figures|bench|figures::measure|commits, lag and failover beside plain and semi-sync MariaDB"
)

list_long() {
    local row name what
    for row in "${LONG[@]}"; do
        IFS='|' read -r name _ _ what <<<"$row"
        printf '%-16s %s\n' "$name" "$what"
    done
}

find_long() {
    local row
    for row in "${LONG[@]}"; do
        if [[ ${row%%|*} == "$1" ]]; then
            printf '%s\n' "$row"
            return
        fi
    done
    printf 'tests/run.sh: no longer proof is named %s; there are:\n' "$1" >&2
    list_long >&2
    return 1
}

step() {
    local name=$1 began=$SECONDS
    shift
    printf '==> %s\n' "$name"
    if ! "$@"; then
        printf '==> %s FAILED after %d s\n' "$name" $((SECONDS - began)) >&2
        exit 1
    fi
    printf '==> %s: %d s\n' "$name" $((SECONDS - began))
}

# Every call names the whole workspace, so that features unify and dependencies build once. The
# binaries are built first: the tests of whole clusters start them.
run_all() {
    step format cargo fmt --all --check
    step lints cargo clippy --quiet --workspace --all-targets -- -D warnings
    step build cargo build --quiet --workspace --all-targets
    step tests cargo test --workspace --no-fail-fast
    printf '==> everything passed in %d s\n' "$SECONDS"
}

run_long() {
    local binary filter
    IFS='|' read -r _ binary filter _ <<<"$1"
    step build cargo build --quiet --workspace --all-targets
    local run=(cargo test --quiet --workspace --test "$binary" -- --ignored "$filter")
    # A filter that matches nothing would pass.
    if ! "${run[@]}" --list | grep ': test$' >/dev/null; then
        printf 'tests/run.sh: no test of %s is named %s\n' "$binary" "$filter" >&2
        exit 1
    fi
    step "$filter" "${run[@]}" --nocapture
}

case ${1-} in
'')
    # shellcheck source=deploy/setup.sh
    source deploy/setup.sh
    setup_locked run_all
    ;;
long)
    if [[ -z ${2-} ]]; then
        list_long
        exit
    fi
    row=$(find_long "$2")
    # shellcheck source=deploy/setup.sh
    source deploy/setup.sh
    setup_locked run_long "$row"
    ;;
*)
    sed -n '2,/^set /{s/^# \{0,1\}//;/^set /!p}' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac

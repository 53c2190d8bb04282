#!/usr/bin/env bash
# make bench [TABLES='rpc xdp …']: luna beside the kernel, smoltcp and raw frames, in interleaved
# runs over links of their own. Writes docs/BENCHMARKS.md; status 1 if a target of that page is
# missed.
#
#   scripts/bench.sh [TABLE…]     link rpc short xdp apps memory; none: all of them
#   scripts/bench.sh figures      the curves of `make figures`, into target/figures
#
# BENCH_ROUNDS (5), BENCH_SECONDS (0.6, of each run), BENCH_ARGS (for `luna knb suite`: --only
# kernel,batch --cell '4 KB'), BENCH_REPORT (docs/BENCHMARKS.md). The results of every run are kept
# in target/bench/results.jsonl; a table that is measured again replaces its old ones.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

RESULTS=$ROOT/target/bench/results.jsonl
REPORT=${BENCH_REPORT:-$ROOT/docs/BENCHMARKS.md}
NAMES=kb$(($$ % 100000))

# Which part of memory the lists of free pages may hold: some runs change it for their time.
LISTS=/proc/sys/vm/percpu_pagelist_high_fraction
LISTS_BEFORE=$(cat "$LISTS" 2>/dev/null || true)

# Removes what a run that was interrupted has left: its namespaces bear its name.
clean_up() {
    local name
    [ -z "$LISTS_BEFORE" ] || [ "$(cat "$LISTS")" = "$LISTS_BEFORE" ] || echo "$LISTS_BEFORE" >"$LISTS"
    for name in $(ip netns list 2>/dev/null | cut -d' ' -f1 | grep "^$NAMES-" || true); do
        ip netns del "$name" 2>/dev/null || true
    done
}

build_peers() {
    PEERS=$(cargo bench --locked --no-run --quiet --bench peers --message-format=json |
        sed -n 's/.*"name":"peers".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
    [ -x "$PEERS" ] || die "the program benches/peers was not built"
}

suite() {
    # shellcheck disable=SC2086 # one word for each table and argument
    "$LUNA" knb suite $1 ${BENCH_ARGS:-} --results "$RESULTS" --peers "$PEERS" --names "$NAMES" \
        --rounds "${BENCH_ROUNDS:-5}" --seconds "${BENCH_SECONDS:-0.6}"
}

# What scripts/instructions.sh and scripts/syscalls.sh count, and the cycles of the same rounds: KEY=NUMBER lines.
memory() {
    local words
    words=$({
        bash "$ROOT/scripts/instructions.sh" --all
        bash "$ROOT/scripts/syscalls.sh"
        cargo bench --locked --quiet --bench rpc --features testutil
        cargo bench --locked --quiet --bench connections --features testutil
    } | grep -E '^[a-z_0-9.]+=[0-9.]+$' | tr '\n' ' ')
    # shellcheck disable=SC2086 # one word for each figure
    "$LUNA" knb record --results "$RESULTS" memory rpc memory -- $words
}

main() {
    local tables=${*:-link rpc short xdp apps memory} others
    need_root bench
    # shellcheck disable=SC2086 # one word for each package
    install_missing $PACKAGES_BUILD $PACKAGES_TEST $PACKAGES_BENCH
    build_release
    build_peers
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    others=$(tr ' ' '\n' <<<"$tables" | grep -vx memory || true)
    # shellcheck disable=SC2086 # one word for each table
    [ -z "$others" ] || suite "$(echo $others)"
    if grep -qw figures <<<"$tables"; then
        "$LUNA" knb figures --results "$RESULTS" --output "$ROOT/target/figures"
        say "drawn in $ROOT/target/figures"
        [ "$tables" != figures ] || exit 0
    fi
    ! grep -qw memory <<<"$tables" || memory
    "$LUNA" knb report --results "$RESULTS" --output "$REPORT" && met=0 || met=$?
    say "written to $REPORT"
    exit "$met"
}

main "$@"

#!/usr/bin/env bash
# Counts the instructions of a 4 KB request and response between two shards on a wire in memory,
# with valgrind's callgrind. Prints one number: instructions per RPC and side, application included.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

ROUNDS=200
program=$(cargo bench --locked --no-run --bench rpc --features testutil 2>&1 |
    sed -n 's/.*Executable.*(\(.*\))$/\1/p' | tail -n 1)
[ -x "$program" ] || die "the benchmark rpc was not built"
total=$(RPC_ROUNDS=$ROUNDS valgrind --tool=callgrind --toggle-collect='*measured_rounds*' \
    --callgrind-out-file=/dev/null "$program" 2>&1 | sed -n 's/.*Collected : *//p')
[ -n "$total" ] || die "callgrind counted nothing"
echo $((total / ROUNDS / 2))

#!/usr/bin/env bash
# Counts the instructions of a 4 KB request and response between two shards on a wire in memory,
# with valgrind's callgrind. Prints one number: instructions per RPC and side, application included.
# With --all: key=value lines, one for each mode of the benchmark.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

ROUNDS=200
program=$(cargo bench --locked --no-run --bench rpc --features testutil 2>&1 |
    sed -n 's/.*Executable.*(\(.*\))$/\1/p' | tail -n 1)
[ -x "$program" ] || die "the benchmark rpc was not built"

# count MODE FUNCTION ROUNDS: instructions per round and side
count() {
    local total
    total=$(RPC_ROUNDS=$3 valgrind --tool=callgrind --toggle-collect="*$2*" \
        --callgrind-out-file=/dev/null "$program" "$1" 2>&1 | sed -n 's/.*Collected : *//p')
    [ -n "$total" ] || die "callgrind counted nothing in mode $1"
    echo $((total / $3 / 2))
}

if [ "${1:-}" != --all ]; then
    count copy measured_rounds $ROUNDS
    exit
fi
for mode in copy copy_offload; do
    echo "$mode.instructions_per_rpc_and_side=$(count $mode measured_rounds $ROUNDS)"
done
for mode in inline inline_offload; do
    echo "$mode.instructions_per_rpc_and_side=$(count $mode measured_inline $ROUNDS)"
done
echo "short.instructions_per_connection_and_side=$(count short measured_short 1600)"

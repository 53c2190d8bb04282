#!/usr/bin/env bash
# Counts a busy server's system calls for each 4 KB request over memif, with the kernel's
# tracer (strace slows them down so much that both ends fall asleep). Prints
# KEY=NUMBER lines, for the inline loop and for sockets.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

TRACEFS=/sys/kernel/tracing
# A tracer of our own, beside whatever else is traced.
TRACER=$TRACEFS/instances/luna-$$
EVENT=events/raw_syscalls/sys_enter
WORK=$(mktemp -d)
SERVER=
cleanup() {
    [ -z "$SERVER" ] || kill "$SERVER" 2>/dev/null || true
    [ ! -d "$TRACER" ] || rmdir "$TRACER"
    rm -rf "$WORK"
}
trap cleanup EXIT

need_root bench
[ -d $TRACEFS/instances ] || mount -t tracefs tracefs $TRACEFS 2>/dev/null || {
    say "system calls are not counted: this kernel has no tracer for us"
    exit 0
}
mkdir "$TRACER"

# count STACK: calls for each request
count() {
    local stack=$1 dev=memif:$WORK/s.sock client calls rps
    taskset -c "$SERVER_CORE" "$LUNA" knb server --json --stack "$stack" --address 0.0.0.0:7000 \
        --dev "$dev,role=server,ip=10.78.0.1/24" >"$WORK/server" &
    SERVER=$!
    wait_for 20 "the server" grep -q ready "$WORK/server"
    taskset -c "$CLIENT_CORE" "$LUNA" knb client --json --stack "$stack" --dev "$dev,role=client,ip=10.78.0.2/24" \
        --size 4096 --seconds 4 10.78.0.1:7000 >"$WORK/client" &
    client=$!
    # In the middle of it: counted for two seconds of four.
    wait_for 20 "the client" is_busy
    (cd "/proc/$SERVER/task" && echo *) >"$TRACER/set_event_pid"
    echo 1 >"$TRACER/$EVENT/enable"
    sleep 2
    echo 0 >"$TRACER/$EVENT/enable"
    calls=$(awk '/^(entries|overrun):/ { n += $2 } END { print n + 0 }' "$TRACER"/per_cpu/cpu*/stats)
    echo >"$TRACER/trace"
    wait $client
    kill "$SERVER"
    wait "$SERVER" 2>/dev/null || true
    SERVER=
    rps=$(sed -n 's/.*"rps":\([0-9.]*\).*/\1/p' "$WORK/client")
    [ "$calls" -gt 0 ] && [ -n "$rps" ] || die "nothing was counted at the $stack server"
    echo "memif_$stack.syscalls_per_request=$(awk "BEGIN { printf \"%.4f\", $calls / ($rps * 2) }")"
}

# The server has used 0.4 s of its core.
is_busy() {
    local now
    now=$(awk '{ print $14 + $15 }' "/proc/$SERVER/stat")
    [ "$now" -ge 40 ]
}

count inline
count batch

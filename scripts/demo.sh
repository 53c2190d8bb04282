#!/usr/bin/env bash
# make demo: Debian's redis, unchanged, on the kernel's TCP stack and on luna's, side by side.
#
# Makes two pairs of network namespaces joined by veth, one for each stack, runs redis-benchmark
# over them in turn, shows that the accelerated requests passed the kernel's TCP by, and cleans up.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

PORT=6379
ROUNDS=${DEMO_ROUNDS:-3}
REQUESTS=${DEMO_REQUESTS:-50000}

start_redis() { # NAME NETNS COMMAND…
    local name=$1 netns=$2
    shift 2
    ip netns exec "$netns" taskset -c "$SERVER_CORE" "$@" redis-server --port $PORT \
        --bind 0.0.0.0 --protected-mode no --save '' --appendonly no --dir "$WORK" \
        >"$WORK/$name.log" 2>&1 </dev/null &
    wait_for 20 "redis on $name" answers_ping "$netns" 127.0.0.1 $PORT ||
        { cat "$WORK/$name.log" >&2; die "redis did not start on $name"; }
}

# measure ROW NETNS HOST COMMAND…: one run; appends its numbers to $WORK/ROW.
measure() {
    local row=$1 netns=$2 host=$3
    shift 3
    ip netns exec "$netns" taskset -c "$CLIENT_CORE" "$@" redis-benchmark -h "$host" -p $PORT \
        -t set,get -c 50 -n "$REQUESTS" -d 100 --csv >"$WORK/run.csv" </dev/null ||
        die "redis-benchmark failed ($row)"
    # test, requests/s, average, min, p50, p95, p99, max
    tr -d '"' <"$WORK/run.csv" | awk -F, '$1 == "SET" || $1 == "GET" { print $1, $2, $5, $7 }' \
        >>"$WORK/$row"
    grep -q GET "$WORK/$row" || { cat "$WORK/run.csv" >&2; die "no result ($row)"; }
}

column() { awk -v test="$2" -v field="$3" '$1 == test { print $field }' "$WORK/$1"; }

print_row() { # ROW TITLE
    local test numbers=()
    for test in GET SET; do
        local field
        for field in 2 3 4; do
            # shellcheck disable=SC2046 # one word for each run
            numbers+=("$(median $(column "$1" $test $field))")
        done
    done
    printf '%-32s %9.0f %7.3f %7.3f   %9.0f %7.3f %7.3f\n' "$2" "${numbers[@]}"
}

print_table() {
    echo
    echo "redis-benchmark, 50 connections, 100-byte values; medians of $ROUNDS interleaved runs."
    echo "Server on core $SERVER_CORE, client on core $CLIENT_CORE; times in milliseconds."
    echo
    printf '%-32s %9s %7s %7s   %9s %7s %7s\n' '' GET/s p50 p99 SET/s p50 p99
    print_row kernel 'kernel client -> kernel server'
    print_row mixed 'kernel client -> luna server'
    print_row luna 'luna client   -> luna server'
    echo
}

segments_in=0
# The kernel's TCP segments at both ends of a run on luna, less what it had before.
passed_by() { # ROW NETNS…
    local row=$1 netns total=0
    shift
    for netns in "$@"; do total=$((total + $(kernel_segments "$netns"))); done
    segments_in=$((total - segments_in))
    echo $segments_in >>"$WORK/$row.segments"
}

main() {
    need_root demo
    # shellcheck disable=SC2086 # one word for each package
    install_missing $PACKAGES_BUILD $PACKAGES_TEST $PACKAGES_BENCH
    build_release
    need_luna_run
    start_work
    make_pair kernel 1 1500
    make_pair luna 2 1500
    # shellcheck disable=SC2154 # make_pair sets them
    start_redis kernel "$kernel_server"
    # shellcheck disable=SC2154
    start_redis luna "$luna_server" \
        env LUNA_STRICT=1 "$LUNA" run --dev "xdp:$luna_server_if" --listen $PORT --
    # shellcheck disable=SC2154
    local as_client=(env LUNA_STRICT=1 "$LUNA" run --dev "xdp:$luna_client_if"
        --connect "$luna_server_ip:$PORT" --)

    local round
    for round in $(seq "$ROUNDS"); do
        say "round $round of $ROUNDS…"
        segments_in=$(kernel_segments "$kernel_server")
        # shellcheck disable=SC2154
        measure kernel "$kernel_client" "$kernel_server_ip"
        passed_by kernel "$kernel_server"
        segments_in=$(kernel_segments "$luna_server")
        measure mixed "$luna_client" "$luna_server_ip"
        passed_by mixed "$luna_server"
        segments_in=$(($(kernel_segments "$luna_server") + $(kernel_segments "$luna_client")))
        measure luna "$luna_client" "$luna_server_ip" "${as_client[@]}"
        passed_by luna "$luna_server" "$luna_client"
    done

    print_table
    prove "${as_client[@]}"
    echo "All of it worked. Cleaned up after itself."
}

# The requests were luna's: the kernel's TCP did not see them, and luna knows the connections.
prove() { # COMMAND… of an accelerated client
    local row most
    echo "TCP segments that the kernel's own stack counted during each run:"
    for row in kernel mixed luna; do
        printf '  %-8s %s\n' $row "$(paste -sd' ' "$WORK/$row.segments")"
    done
    most=$(sort -n "$WORK/mixed.segments" "$WORK/luna.segments" | tail -n 1)
    [ "$most" -lt 100 ] || die "accelerated requests went through the kernel's TCP ($most segments)"
    [ "$(sort -n "$WORK/kernel.segments" | head -n 1)" -gt "$REQUESTS" ] ||
        die "the kernel's counters did not count the kernel's run"

    ip netns exec "$luna_client" "$@" redis-benchmark -h "$luna_server_ip" -p $PORT -t get -c 3 \
        -n 100000000 >"$WORK/background.log" 2>&1 </dev/null &
    local background=$!
    wait_for 20 "connections in \`luna ss\`" ss_lists_client ||
        die "\`luna ss\` does not list the connections"
    echo
    echo "luna ss, at the server, while three luna clients are busy:"
    head -n 12 "$WORK/ss" | sed "s/^/  /"
    kill -TERM $background
    wait $background || true
    echo
}

ss_lists_client() {
    ip netns exec "$luna_server" "$LUNA" ss >"$WORK/ss" 2>&1
    # shellcheck disable=SC2154
    grep -q "$luna_client_ip:" "$WORK/ss"
}

main "$@"

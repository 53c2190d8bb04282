#!/usr/bin/env bash
# make bench: luna beside the kernel, in interleaved runs, over veth pairs of their own.
#
# Server and client are pinned to one core each. Writes docs/BENCHMARKS.md; ends with status 1 if a
# target of that page is missed.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

ROUNDS=${BENCH_ROUNDS:-5}
SECONDS_EACH=${BENCH_SECONDS:-2}
REPORT=${BENCH_REPORT:-$ROOT/docs/BENCHMARKS.md}
RPC_PORT=7000
REDIS_PORT=6379

# The variants: how server and client are started. `kernel-spin` is the kernel's best at depth one:
# the same program asking epoll without ever sleeping.
RPC_VARIANTS="kernel kernel-spin luna"
REDIS_VARIANTS="kernel kernel-to-luna luna"

# stack_of VARIANT SIDE: sets `netns` and `prefix`, the words before the program.
stack_of() {
    local variant=$1 side=$2 core=$SERVER_CORE pair=luna
    [ "$side" = server ] || core=$CLIENT_CORE
    case $variant in kernel*) [ "$variant" = kernel-to-luna ] || pair=kernel ;; esac
    local namespace="${pair}_$side" interface="${pair}_${side}_if" host="${pair}_server_ip"
    netns=${!namespace} target=${!host}
    prefix=(ip netns exec "$netns" taskset -c "$core")
    case $variant-$side in
    luna-server | kernel-to-luna-server)
        prefix+=(env LUNA_STRICT=1 "$LUNA" run --dev "xdp:${!interface}"
            --listen "$RPC_PORT,$REDIS_PORT" --) ;;
    luna-client)
        prefix+=(env LUNA_STRICT=1 "$LUNA" run --dev "xdp:${!interface}"
            --connect "$target:$RPC_PORT,$target:$REDIS_PORT" --) ;;
    esac
}

stop_server() {
    kill -TERM "$server_pid" 2>/dev/null || true
    wait "$server_pid" 2>/dev/null || true
}

# rpc TABLE VARIANT MODE ARGUMENT…: one run; appends "rps p50 p99" to $WORK/TABLE.VARIANT.
rpc() {
    local table=$1 variant=$2 mode=$3 busy=() line
    shift 3
    [ "$variant" != kernel-spin ] || busy=(--busy)
    stack_of "$variant" server
    "${prefix[@]}" "$STREAM" server --port $RPC_PORT --io epoll "${busy[@]}" \
        >"$WORK/server.log" 2>&1 </dev/null &
    server_pid=$!
    wait_for 20 "the server on $variant" listens "$netns" $RPC_PORT ||
        { cat "$WORK/server.log" >&2; die "no server on $variant"; }
    stack_of "$variant" client
    line=$("${prefix[@]}" "$STREAM" "$mode" --host "$target" --port $RPC_PORT --io epoll \
        --timeout 120 "${busy[@]}" "$@" 2>"$WORK/client.log") ||
        { cat "$WORK/client.log" "$WORK/server.log" >&2; die "$table failed on $variant: $line"; }
    stop_server
    echo "$(value rps "$line") $(value p50_us "$line") $(value p99_us "$line")" \
        >>"$WORK/$table.$variant"
}

# redis VARIANT: GET at 50 connections without pipelining; times in µs like the others.
redis() {
    local variant=$1
    stack_of "$variant" server
    "${prefix[@]}" redis-server --port $REDIS_PORT --bind 0.0.0.0 --protected-mode no --save '' \
        --appendonly no --dir "$WORK" >"$WORK/server.log" 2>&1 </dev/null &
    server_pid=$!
    wait_for 20 "redis on $variant" answers_ping "$netns" 127.0.0.1 $REDIS_PORT ||
        { cat "$WORK/server.log" >&2; die "no redis on $variant"; }
    stack_of "$variant" client
    "${prefix[@]}" redis-benchmark -h "$target" -p $REDIS_PORT -t get -c 50 -n 100000 -d 100 \
        --csv >"$WORK/run.csv" 2>"$WORK/client.log" </dev/null ||
        { cat "$WORK/client.log" "$WORK/server.log" >&2; die "redis-benchmark failed on $variant"; }
    stop_server
    tr -d '"' <"$WORK/run.csv" | awk -F, '$1 == "GET" { print $2, $5 * 1000, $7 * 1000 }' \
        >>"$WORK/redis.$variant"
    [ -s "$WORK/redis.$variant" ] || die "redis-benchmark printed nothing on $variant"
}

# middle TABLE VARIANT FIELD
middle() {
    # shellcheck disable=SC2046 # one word for each run
    median $(cut -d' ' -f"$3" "$WORK/$1.$2")
}

table() { # TABLE VARIANTS
    local variant
    echo '| | requests/s | p50 µs | p99 µs |'
    echo '|---|---:|---:|---:|'
    for variant in $2; do
        printf '| %s | %.0f | %.1f | %.1f |\n' "$(title "$variant")" "$(middle "$1" "$variant" 1)" \
            "$(middle "$1" "$variant" 2)" "$(middle "$1" "$variant" 3)"
    done
    echo
}

title() {
    case $1 in
    kernel) echo 'kernel ↔ kernel' ;;
    kernel-spin) echo 'kernel ↔ kernel, both programs spinning' ;;
    kernel-to-luna) echo 'kernel client → luna server' ;;
    luna) echo 'luna ↔ luna' ;;
    esac
}

measure_all() {
    local round variant
    for round in $(seq "$ROUNDS"); do
        say "round $round of $ROUNDS…"
        for variant in $RPC_VARIANTS; do
            rpc rpc-4k-1 "$variant" rpc --seconds "$SECONDS_EACH" --warmup 1
            rpc rpc-64-1 "$variant" rpc --seconds "$SECONDS_EACH" --warmup 1 \
                --request 64 --response 64
            rpc rpc-4k-16 "$variant" rpc --seconds "$SECONDS_EACH" --warmup 1 --connections 16
            rpc short "$variant" short --count 5000 --request 64 --response 64
        done
        for variant in $REDIS_VARIANTS; do
            redis "$variant"
        done
    done
}

TARGETS_MISSED=0
# target WHAT LEFT OPERATOR RIGHT: a line of the targets' table.
target_line() {
    local verdict=met
    awk "BEGIN { exit !($2 $3 $4) }" || verdict=missed
    [ $verdict = met ] || TARGETS_MISSED=1
    printf '| %s | %s | %.2f | %s |\n' "$1" "$3 $4" "$2" "$verdict"
}

ratio() { awk "BEGIN { printf \"%.3f\", $1 / $2 }"; }

targets() {
    echo '| luna / kernel | target | measured | |'
    echo '|---|---|---:|---|'
    target_line 'p50 of a 4 KB request, one connection' \
        "$(ratio "$(middle rpc-4k-1 luna 2)" "$(middle rpc-4k-1 kernel 2)")" '<=' 0.5
    target_line 'requests/s of 4 KB, one connection' \
        "$(ratio "$(middle rpc-4k-1 luna 1)" "$(middle rpc-4k-1 kernel 1)")" '>=' 2
    target_line 'redis GET/s, 50 connections' \
        "$(ratio "$(middle redis luna 1)" "$(middle redis kernel 1)")" '>=' 1
    echo
}

report() {
    cat <<END
# Benchmarks

Written by \`make bench\`; figures of one machine at one time, medians of $ROUNDS interleaved runs.
Compare within a table, not between machines or days.

- machine: $(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo), $(nproc) cores, server on
  core $SERVER_CORE, client on core $CLIENT_CORE
- Linux $(uname -r), $(. /etc/os-release && echo "$PRETTY_NAME"), $(rustc --version | cut -d' ' -f1,2),
  $(redis-server --version | cut -d' ' -f1-3), luna at commit $(git -C "$ROOT" rev-parse --short HEAD)
- link: a veth pair between two network namespaces, MTU 1500, one pair for each stack; segmentation
  offload as Linux sets it up (the kernel passes 64 KiB packets; attaching XDP switches that off)
- peer: \`examples-c/stream.c\`, the same binary on both stacks

## Targets

$(cat "$WORK/targets")

## 4 KB request, 4 KB response, one connection

\`stream rpc --io epoll --seconds $SECONDS_EACH --warmup 1\` against \`stream server --io epoll\`

$(table rpc-4k-1 "$RPC_VARIANTS")

## 64 bytes each way, one connection

$(table rpc-64-1 "$RPC_VARIANTS")

## 4 KB each way, 16 connections

$(table rpc-4k-16 "$RPC_VARIANTS")

## A connection for each request, 64 bytes each way

\`stream short --count 5000\`: connect, one request, the server closes.

$(table short "$RPC_VARIANTS")

## redis, GET of 100 bytes, 50 connections, no pipelining

\`redis-benchmark -t get -c 50 -n 100000 -d 100\`

$(table redis "$REDIS_VARIANTS")

## Instructions

\`scripts/instructions.sh\` (callgrind): a 4 KB request and response between two shards on a wire in
memory take **$(cat "$WORK/instructions") instructions per RPC and side**, with six frames, all checksums
in software, one copy in and one copy out of the application's memory.
END
}

main() {
    need_root bench
    # shellcheck disable=SC2086 # one word for each package
    install_missing $PACKAGES_BUILD $PACKAGES_TEST $PACKAGES_BENCH
    build_release
    build_stream
    need_luna_run
    start_work
    make_pair kernel 1 1500
    make_pair luna 2 1500
    measure_all
    bash "$ROOT/scripts/instructions.sh" >"$WORK/instructions"
    targets >"$WORK/targets"
    report >"$WORK/report"
    cat "$WORK/report"
    mv "$WORK/report" "$REPORT"
    say "written to $REPORT"
    exit $TARGETS_MISSED
}

main "$@"

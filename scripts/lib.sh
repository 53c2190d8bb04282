# What the scripts share: installing, namespaces, counters, tables. Sourced, never run.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
LUNA=$ROOT/target/release/luna
STREAM=$ROOT/target/stream
# Everything that the scripts write besides docs/BENCHMARKS.md.
WORK=

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

need_root() {
    [ "$(id -u)" = 0 ] || die "$1 needs root: it makes network namespaces (try: sudo make $1)"
}

# What each program is installed from, on Debian.
PACKAGES_BUILD="cc=gcc clang=clang make=make pkg-config=pkg-config"
# What a build needs besides programs, by a file of each.
FILES_BUILD="/usr/include/dpdk/rte_ethdev.h=libdpdk-dev /usr/lib/llvm-14/lib/libclang.so=libclang-dev"
PACKAGES_TEST="dpdk-testpmd=dpdk-dev ip=iproute2 nft=nftables bpftool=bpftool setpriv=util-linux ping=iputils-ping
    redis-server=redis-server redis-benchmark=redis-tools nginx=nginx-light iperf3=iperf3
    memcached=memcached haproxy=haproxy curl=curl wget=wget socat=socat openssl=openssl
    /usr/bin/python3=python3 node=nodejs javac=openjdk-17-jdk-headless psql=postgresql
    sshd=openssh-server ssh=openssh-client stress-ng=stress-ng"
PACKAGES_BENCH="taskset=util-linux valgrind=valgrind ethtool=ethtool"

# install_missing NAME=PACKAGE…: installs the packages of the programs that are not there.
install_missing() {
    local pair missing=()
    PATH=$PATH:/usr/sbin:/sbin
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    for pair in $FILES_BUILD; do
        [ -e "${pair%%=*}" ] || missing+=("${pair#*=}")
    done
    if [ -e /usr/bin/cc ] && [ ! -e /usr/include/stdlib.h ]; then
        missing+=(libc6-dev)
    fi
    if [ ${#missing[@]} -gt 0 ]; then
        command -v apt-get >/dev/null || die "please install: ${missing[*]}"
        [ "$(id -u)" = 0 ] || die "please install (needs root): apt-get install ${missing[*]}"
        say "installing: ${missing[*]}"
        # Nobody asked for these services to run: RUNLEVEL=1 keeps them from being started.
        DEBIAN_FRONTEND=noninteractive apt-get -qq update >&2 </dev/null
        RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
            "${missing[@]}" libc6-dev >&2 </dev/null
    fi
    if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
        PATH=$HOME/.cargo/bin:$PATH
    fi
    command -v cargo >/dev/null ||
        die "Rust 1.88 or newer is missing, and Debian 12's is older: install it from https://rustup.rs"
}

build_release() {
    say "building (release)…"
    (cd "$ROOT" && cargo build --release --locked --quiet --package luna --package luna_preload)
}

build_stream() {
    mkdir -p "$ROOT/target"
    cc -std=c11 -O2 -Wall -Wextra -o "$STREAM" "$ROOT/examples-c/stream.c" -pthread
}

need_luna_run() {
    "$LUNA" run --help 2>/dev/null | grep -q -- --listen ||
        die "this build's luna has no \`run\` command"
}

# ---- cleaning up: namespaces and the processes in them -----------------------------------------

NAMESPACES=()

# Ends the processes of our namespaces (nothing else is ever started there), then removes those.
clean_up() {
    local name pids
    for name in "${NAMESPACES[@]}"; do
        pids=$(ip netns pids "$name" 2>/dev/null) || continue
        # shellcheck disable=SC2086 # one word for each process
        [ -z "$pids" ] || kill -TERM $pids 2>/dev/null || true
    done
    for name in "${NAMESPACES[@]}"; do
        wait_for 5 "the processes of $name to end" no_process_in "$name" || {
            # shellcheck disable=SC2046
            kill -KILL $(ip netns pids "$name") 2>/dev/null || true
        }
        ip netns del "$name" 2>/dev/null || true
    done
    NAMESPACES=()
    [ -z "$WORK" ] || rm -rf "$WORK"
}

no_process_in() { [ -z "$(ip netns pids "$1" 2>/dev/null)" ]; }

start_work() {
    WORK=$(mktemp -d)
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# wait_for SECONDS WHAT COMMAND…: until the command succeeds.
wait_for() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        [ $SECONDS -le $deadline ] || { say "waited in vain for $what"; return 1; }
        sleep 0.05
    done
}

# ---- namespaces ----------------------------------------------------------------------------------

# make_pair NAME NUMBER MTU: two namespaces joined by a veth pair; sets NAME_server and NAME_client
# (namespaces), NAME_server_if and NAME_client_if, NAME_server_ip and NAME_client_ip.
make_pair() {
    local name=$1 number=$2 mtu=$3 side host=0
    ip link add "l$$${name:0:1}s" mtu "$mtu" type veth peer name "l$$${name:0:1}c" mtu "$mtu"
    for side in server client; do
        host=$((host + 1))
        local netns="luna-$$-$name-$side" link="l$$${name:0:1}${side:0:1}"
        local address="10.77.$number.$host"
        ip netns add "$netns"
        NAMESPACES+=("$netns")
        ip link set "$link" netns "$netns"
        ip -n "$netns" link set lo up
        ip -n "$netns" address add "$address/24" dev "$link"
        ip -n "$netns" link set "$link" up
        printf -v "${name}_$side" %s "$netns"
        printf -v "${name}_${side}_if" %s "$link"
        printf -v "${name}_${side}_ip" %s "$address"
    done
}

# The kernel's TCP segments, in and out, of a namespace.
kernel_segments() {
    # shellcheck disable=SC2016 # fields of awk
    ip netns exec "$1" awk '/^Tcp: [0-9]/ { print $11 + $12 }' /proc/net/snmp
}

answers_ping() { ip netns exec "$1" redis-cli -h "$2" -p "$3" ping 2>/dev/null | grep -q PONG; }

listens() { ip netns exec "$1" ss -Hltn | grep -q ":$2 "; }

# ---- cores and numbers -----------------------------------------------------------------------------

SERVER_CORE=0
CLIENT_CORE=$(($(nproc) > 1 ? 1 : 0))

# median NUMBER…
median() { printf '%s\n' "$@" | sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# value KEY LINE: of a line of key=value words.
value() { tr ' ' '\n' <<<"$2" | awk -F= -v key="$1" '$1 == key { print $2 }'; }

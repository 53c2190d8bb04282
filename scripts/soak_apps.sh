#!/usr/bin/env bash
# nginx, redis and memcached on luna for half an hour (SOAK_SECONDS), one namespace each, behind a
# router that drops 1 % both ways: reloads, clients that are killed and restarted. At the end no
# byte was wrong, nothing hung, and no descriptor, packet buffer or port has leaked.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

need_root soak
# shellcheck disable=SC2086 # one word for each package
install_missing $PACKAGES_BUILD $PACKAGES_TEST
if [ -z "${SOAK_LUNA:-}" ]; then build_release; else LUNA=$SOAK_LUNA; fi
need_luna_run
start_work
chmod 755 "$WORK"
SECONDS_TO_RUN=${SOAK_SECONDS:-1800}
CLIENT=$WORK/client.py
cp scripts/soak_client.py "$CLIENT"

# ---- namespaces: NAME - router - clients ---------------------------------------------------------

ROUTER=luna-$$-soak-router
CLIENTS=luna-$$-soak-clients
for netns in $ROUTER $CLIENTS; do
    ip netns add "$netns"
    NAMESPACES+=("$netns")
    ip -n "$netns" link set lo up
done
ip netns exec "$ROUTER" sysctl -qw net.ipv4.ip_forward=1
# A kernel sender chooses the queue of a veth by a hash that it changes after each timeout, where a
# network card has the packet's own: the packets of a connection would reach another worker.
ip netns exec "$CLIENTS" sysctl -qw net.core.txrehash=0

# join NETNS NUMBER QUEUES: a link from a namespace to the router; 10.78.NUMBER.1 is the namespace.
join() {
    local link=s$$n$2
    ip link add "$link" netns "$1" numrxqueues "$3" numtxqueues "$3" type veth \
        peer name "$link" netns "$ROUTER" numrxqueues "$3" numtxqueues "$3"
    ip -n "$1" address add "10.78.$2.1/24" dev "$link"
    ip -n "$ROUTER" address add "10.78.$2.2/24" dev "$link"
    ip -n "$1" link set "$link" up
    ip -n "$ROUTER" link set "$link" up
    ip -n "$1" link set "$link" gso_max_segs 1
    ip -n "$ROUTER" link set "$link" gso_max_segs 1
    ip -n "$1" route add 10.78.0.0/16 via "10.78.$2.2"
}
join "$CLIENTS" 9 1
ip netns exec "$ROUTER" nft 'add table inet loss
    add chain inet loss forward { type filter hook forward priority 0; }
    add rule inet loss forward meta l4proto tcp numgen random mod 100 < 1 counter drop'

# serve NAME NUMBER QUEUES PORT COMMAND…
serve() {
    local name=$1 number=$2 queues=$3 port=$4 netns=luna-$$-soak-$1
    shift 4
    ip netns add "$netns"
    NAMESPACES+=("$netns")
    ip -n "$netns" link set lo up
    join "$netns" "$number" "$queues"
    LUNA_STRICT=1 ip netns exec "$netns" "$LUNA" run --dev "xdp:s$$n$number" --listen "$port" -- \
        "$@" >"$WORK/$name.log" 2>&1 &
    SERVERS+=("$!")
}
SERVERS=()

mkdir -p "$WORK/html"
head -c 300000 /dev/urandom >"$WORK/html/page"
chmod -R go+rX "$WORK"
cat >"$WORK/nginx.conf" <<END
daemon off; worker_processes 2; pid nginx.pid; error_log stderr error;
events { worker_connections 512; }
http { access_log off; sendfile on; root html; client_body_temp_path t1; proxy_temp_path t2;
  fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5; server { listen 80; } }
END
serve nginx 1 4 80 nginx -p "$WORK" -c nginx.conf
serve redis 2 1 6379 redis-server --port 6379 --bind 0.0.0.0 --protected-mode no --save "" \
    --dir "$WORK"
serve memcached 3 1 11211 memcached -u nobody -t 4 -l 0.0.0.0 -p 11211 -m 64

# Not grep -q: luna would be told by SIGPIPE that nobody listens, and the pipe would fail.
accelerated() { [ -n "$("$LUNA" ss -a 2>/dev/null | grep LISTEN | grep -F ":$1 " | grep ' luna ')" ]; }
for port in 80 6379 11211; do
    wait_for 30 "port $port to be on luna" accelerated "$port" || {
        cat "$WORK"/*.log >&2
        die "a server is not on luna"
    }
done

# ---- clients ------------------------------------------------------------------------------------

# start_client KIND: a kernel client; ends with 0 after its time, and with a line if a byte is wrong.
start_client() {
    ip netns exec "$CLIENTS" /usr/bin/python3 "$CLIENT" "$1" "$WORK/html/page" "$2" \
        >>"$WORK/client-$1.log" 2>&1 &
    PIDS[$1]=$!
}
declare -A PIDS

# Packet buffers in use by our servers, those that the link has to receive into included.
buffers() {
    "$LUNA" stat 2>/dev/null |
        awk -v d="xdp:s$$n" '/^[^ ]*: / { ours = index($0, d) }
            # A column for each shard, then words.
            ours && /^buffers_used/ { for (i = 2; $i ~ /^[0-9]+$/; i++) s += $i }
            END { print s + 0 }'
}
descriptors() {
    local pid sum=0
    for pid in $(ip netns pids "luna-$$-soak-$1"); do
        sum=$((sum + $(find "/proc/$pid/fd" -mindepth 1 2>/dev/null | wc -l)))
    done
    echo "$sum"
}

declare -A FIRST
FIRST_BUFFERS=$(buffers)
[ "$FIRST_BUFFERS" -gt 0 ] || die "luna stat does not show the packet buffers in use"
for name in nginx redis memcached; do FIRST[$name]=$(descriptors $name); done

end=$((SECONDS + SECONDS_TO_RUN))
round=0
say "soak: $SECONDS_TO_RUN s, $(date)"
while [ $SECONDS -lt $end ]; do
    round=$((round + 1))
    left=$((end - SECONDS))
    for kind in nginx redis memcached; do start_client $kind $((left < 15 ? left : 15)); done
    # In the middle of it: new workers, and one kind of client dies.
    victims=(nginx redis memcached none)
    victim=${victims[round % 4]}
    sleep 5
    kill -HUP "$(cat "$WORK/nginx.pid")"
    # Gone already, it is found out below.
    [ "$victim" = none ] || kill -KILL "${PIDS[$victim]}" 2>/dev/null || true
    for kind in nginx redis memcached; do
        status=0
        wait "${PIDS[$kind]}" || status=$?
        if [ $status != 0 ] && ! { [ $kind = "$victim" ] && [ $status = 137 ]; }; then
            tail -n 5 "$WORK/client-$kind.log" >&2
            # What the servers think of it, if they still do.
            "$LUNA" ss -a >&2 || true
            die "round $round: the $kind client ended with $status"
        fi
    done
    for pid in "${SERVERS[@]}"; do
        kill -0 "$pid" 2>/dev/null || die "round $round: a server has ended: $(cat "$WORK"/*.log)"
    done
done

# ---- what is left -------------------------------------------------------------------------------

# Connections of killed clients are found out by retransmission; TIME-WAIT lasts a minute.
idle() { [ "$("$LUNA" ss 2>/dev/null | grep -c -E "(nginx|redis-server|memcached)/")" = 0 ]; }
wait_for 90 "connections to end" idle || { "$LUNA" ss >&2; die "connections are left"; }
# jemalloc and libevent keep a few, and workers that were replaced in the end have some until they end.
few() { [ "$(descriptors "$1")" -le $((FIRST[$1] + 12)) ]; }
for name in nginx redis memcached; do
    wait_for 30 "descriptors of $name to be closed" few "$name" || true
    now=$(descriptors $name)
    say "$name: ${FIRST[$name]} descriptors at the start, $now at the end"
    if ! few "$name"; then
        ps -o pid,etime,args -p "$(ip netns pids "luna-$$-soak-$name" | tr '\n' ',' | sed 's/,$//')" >&2
        die "$name leaks descriptors"
    fi
done
say "packet buffers: $FIRST_BUFFERS in use at the start, $(buffers) at the end"
[ "$(buffers)" -le $((FIRST_BUFFERS + 64)) ] || { "$LUNA" stat >&2; die "packet buffers leak"; }
dropped=$(ip netns exec "$ROUTER" nft list chain inet loss forward | grep -o 'packets [0-9]*')
say "soak: $round rounds, $round reloads; the router dropped ${dropped#packets } packets; no byte was wrong"

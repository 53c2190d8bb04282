#!/usr/bin/env bash
# make harmless: CPython's own tests of sockets, polling, TLS, asyncio and child processes, without
# the preload library, with it, and with it and a luna that has no port to serve. The result of
# every single test must be the same.
#
#   harmless.sh [MODULE…]    those modules of CPython's test package (by default all seven)
#
# HARMLESS_LIB names the folder of the libraries (by default target/release, which is built).
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
need_root harmless
cd "$ROOT"

PYTHON=/usr/bin/python3.11
if [ ! -e /usr/lib/python3.11/test/test_socket.py ]; then
    DEBIAN_FRONTEND=noninteractive apt-get -qq update >&2 </dev/null
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
        python3.11 libpython3.11-testsuite >&2 </dev/null
fi
LIB=${HARMLESS_LIB:-}
if [ -z "$LIB" ]; then
    build_release
    LIB=$ROOT/target/release
fi
[ -e "$LIB/libluna_preload.so" ] || die "$LIB has no libluna_preload.so"
[ -e "$LIB/libluna.so" ] || die "$LIB has no libluna.so"

start_work
make_pair harmless 94 1500
# shellcheck disable=SC2154 # set by make_pair
ip netns exec "$harmless_server" "$PYTHON" scripts/harmless.py "$WORK" \
    "$LIB/libluna_preload.so" "$harmless_server_if" "$@"

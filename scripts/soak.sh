#!/usr/bin/env bash
# make soak: what takes too long for every change. 1 GiB transfers each way, optimised build; nginx,
# redis and memcached for half an hour; every C call under valgrind; then the other end-to-end tests
# over and over.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

need_root soak
# shellcheck disable=SC2086 # one word for each package
install_missing $PACKAGES_BUILD $PACKAGES_TEST $PACKAGES_BENCH
export CI=true LUNA_RECOVERY_LONG=1
E2E_MIB=${SOAK_MIB:-1024} cargo test --release --locked --test e2e_integrity -- --nocapture
bash scripts/soak_apps.sh
LUNA_VALGRIND=1 cargo test --release --locked --test capi_diff valgrind
for round in $(seq "${SOAK_ROUNDS:-10}"); do
    say "round $round"
    cargo test --release --locked --test apps --test e2e_redis --test e2e_crash --test e2e_setup \
        --test e2e_idle --test e2e_coexist --test e2e_recovery
done

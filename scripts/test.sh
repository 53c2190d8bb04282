#!/usr/bin/env bash
# make test: builds and runs every test. Arguments go to `cargo test`.
#
# As root it installs what is missing first. Without root the end-to-end tests say that they were
# skipped; all others run.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

if [ "$(id -u)" = 0 ]; then
    # shellcheck disable=SC2086 # one word for each package
    install_missing $PACKAGES_BUILD $PACKAGES_TEST
else
    say "not root: the end-to-end tests will be skipped"
fi
cargo test --locked --workspace "$@"

#!/usr/bin/env bash
# make deps: installs, from Debian, what building, testing and measuring need.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

# shellcheck disable=SC2086 # one word for each package
install_missing $PACKAGES_BUILD $PACKAGES_TEST $PACKAGES_BENCH
say "everything is installed"

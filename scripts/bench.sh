#!/bin/sh
# The figures of the road beside plain `docker run`; --json prints one line per figure.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

set_up
have curl || install_packages curl curl ca-certificates
have unzip || install_packages unzip unzip
build_release
step "measuring"
HORDE_BENCH_IMAGE=$sample_image
export HORDE_BENCH_IMAGE
cargo bench --locked --quiet --bench road -- "$@"

#!/bin/sh
# The figures of the road beside plain `docker run`; with the word `miner` or `facilitator` first, those of that role
# without Docker, beside a bare server on the same wires; with the word `cli`, those of the command line and the
# dashboard. --json prints one line per figure.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

case ${1:-} in
miner | facilitator | cli)
    role=$1
    shift
    ensure_compiler
    ensure_rust
    use_target_dir
    step "measuring"
    # In the optimised form; two cores are enough.
    cargo bench --locked --quiet --bench "$role" -- "$@"
    exit
    ;;
esac

set_up
have curl || install_packages curl curl ca-certificates
have unzip || install_packages unzip unzip
build_release
step "measuring"
HORDE_BENCH_IMAGE=$sample_image
export HORDE_BENCH_IMAGE
cargo bench --locked --quiet --bench road -- "$@"

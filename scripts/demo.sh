#!/bin/sh
# One job on the whole road: sets the machine up, builds horde and runs `horde up --once`.
# Arguments go to `horde up`, for example: sh scripts/demo.sh --backend docker
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

set_up
build_release
step "horde up --once${*:+ $*}"
"$horde" up --once "$@"

#!/bin/sh
# Makes what lies in completions/ and man/ anew from the tree of commands; a test tells when that is needed.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

ensure_compiler
ensure_rust
use_target_dir
cargo build --locked --bin horde >&2
rm -rf completions man
"$CARGO_TARGET_DIR/debug/horde" completions --out completions
"$CARGO_TARGET_DIR/debug/horde" man --out man

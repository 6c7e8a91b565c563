#!/bin/sh
# Everything that must hold: format, lints, all tests (with Docker), docs, the published Python
# clients. Runs every part even when an earlier one failed, and closes with the counts.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

set_up
ensure_rust_tools
ensure_network_tools
ensure_tmux
ensure_man

passed=0
failed=0
skipped=0
broken=
log=$(mktemp)

# part NAME COMMAND...: runs the command, keeps its output for counting and remembers a failure.
part() {
    name=$1
    shift
    step "$name"
    # A pipe would hide the exit code from POSIX sh, so the code travels through a file.
    { "$@" 2>&1 && echo 0 >"$log.code" || echo $? >"$log.code"; } | tee "$log"
    code=$(cat "$log.code")
    if [ "$code" -ne 0 ]; then
        broken="$broken, $name"
        return 1
    fi
}

# check NAME COMMAND...: a part that is no test: it counts only when it fails.
check() { part "$@" || failed=$((failed + 1)); }

# tests NAME COMMAND...: a part whose closing lines hold counts: those of libtest
# ("test result: ok. 3 passed; 0 failed; 1 ignored; …") or of tests/python/run.py (the same form).
tests() {
    ok=0
    part "$@" || ok=1
    counts=$(awk '/^test result: / {
            for (i = 1; i < NF; i++) {
                if ($(i + 1) == "passed;") p += $i
                if ($(i + 1) == "failed;") f += $i
                if ($(i + 1) == "ignored;") s += $i
            }
        } END { print p + 0, f + 0, s + 0 }' "$log")
    set -- $counts
    passed=$((passed + $1))
    failed=$((failed + $2))
    skipped=$((skipped + $3))
    # A suite that died before it could count (a build error, a crash) is a failure too.
    if [ "$ok" -ne 0 ] && [ "$2" -eq 0 ]; then failed=$((failed + 1)); fi
}

check "format" cargo fmt --check
check "lints" cargo clippy --locked --all-targets -- -D warnings
HORDE_TEST_DOCKER=1
export HORDE_TEST_DOCKER
tests "tests" cargo test --locked --no-fail-fast
RUSTDOCFLAGS="-D warnings"
export RUSTDOCFLAGS
check "docs" cargo doc --locked --no-deps --document-private-items

step "the published Python clients"
if ensure_python_clients; then
    # The suite's own binary, so that no second build is needed.
    HORDE=$CARGO_TARGET_DIR/debug/horde
    export HORDE
    tests "Python clients" "$venv_python" tests/python/run.py
elif [ -n "${CI:-}" ]; then
    say "no CPython 3.11 can be had here, and CI must not skip the published clients"
    failed=$((failed + 1))
    broken="$broken, Python clients"
else
    say "SKIPPED: no CPython 3.11 here (compute-horde 0.0.27 asks for exactly 3.11), so the published"
    say "Python clients were not run; install python3.11 and python3.11-venv to run them"
    skipped=$((skipped + 1))
fi
rm -f "$log" "$log.code"

[ -z "$broken" ] || printf '\nbroken: %s\n' "${broken#, }"
summary="$passed passed, $failed failed"
[ "$skipped" -eq 0 ] || summary="$summary, $skipped skipped"
printf '\n%s\n' "$summary"
[ "$failed" -eq 0 ] && [ -z "$broken" ]

#!/bin/sh
# horde-fleet FOLDER VERB: executors as processes of this machine, a few files per executor in FOLDER.
# Used by `miner.command = ["/opt/horde-fleet", "/var/lib/horde-fleet"]`.
set -eu
folder=$1 verb=$2
question=$(cat)
# One member per line, so that sed will do; jq does it better.
ask() { printf '%s\n' "$question" | sed -n "s/^  \"$1\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}\$/\1/p"; }
file=$folder/$(ask token)
case $verb in
manifest)
    echo '{"classes": {"always_on.test": 2}}'
    ;;
start)
    printf '%s\n' "$question" | sed -n 's/^    "\([^"]*\)": "\(.*\)",\{0,1\}$/\1=\2/p' | sed 's/\\\(["\\]\)/\1/g' >"$file.env"
    # In a session of its own and with nothing of ours open; its exit code goes into a file.
    setsid sh -c '
        while IFS= read -r variable; do export "$variable"; done <"$1.env"
        horde executor run --startup-time-limit "$2"
        echo $? >"$1.new" && mv "$1.new" "$1.code"
    ' sh "$file" "$(ask startup_seconds)" </dev/null >"$file.log" 2>&1 &
    echo $! >"$file.pid"
    printf '{"id": "%s"}\n' "$(ask token)"
    ;;
wait)
    while [ ! -e "$file.code" ] && kill -0 "$(cat "$file.pid")" 2>/dev/null; do sleep 0.2; done
    if [ -e "$file.code" ]; then code=$(cat "$file.code"); else code=null; fi
    rm -f "$file.env" "$file.pid" "$file.code"
    printf '{"exit_code": %s}\n' "$code"
    ;;
stop)
    [ -e "$file.pid" ] || exit 0
    group=$(cat "$file.pid")
    kill -s TERM -- "-$group" 2>/dev/null || exit 0
    for _ in $(seq "$(ask grace_seconds)"); do
        kill -s 0 -- "-$group" 2>/dev/null || exit 0
        sleep 1
    done
    kill -s KILL -- "-$group" 2>/dev/null || true
    ;;
*)
    echo "unknown verb $verb" >&2
    exit 2
    ;;
esac

# shellcheck shell=bash
# Where things are, and how the commands speak. Sourced by every command of tools/; nothing runs by itself.
# Forbidden here: anything that only one command needs.

# shellcheck disable=SC2034 # used where this is sourced
set -euo pipefail
FROM=${MEMGUARD_FROM:-$PWD}
unset MEMGUARD_FROM # it is only of the command that was typed
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$ROOT"
BUILD=$ROOT/build
ARCH=$(uname -m)
TRIPLET=$ARCH-linux-gnu

# A path that was typed: relative to where it was typed.
typed_path() { case $1 in /*) realpath -m "$1" ;; *) realpath -m "$FROM/$1" ;; esac; }
note() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
die() { printf 'dev: %s\n' "$*" >&2; exit 1; }
# Status 3: nothing is wrong with the code, but this machine lacks something.
blocked() { printf 'dev: blocked: %s\n' "$*" >&2; exit 3; }
elapsed() { printf '%dm %02ds' $((SECONDS / 60)) $((SECONDS % 60)); }

# Runs a quiet, long command: its output goes to a file, a line every 10 seconds says that it lives.
quietly() {
    local what=$1 log=$2 pid start=$SECONDS
    shift 2
    mkdir -p "$(dirname "$log")"
    "$@" >"$log" 2>&1 &
    pid=$!
    trap 'kill "$pid" 2>/dev/null' INT TERM
    while kill -0 "$pid" 2>/dev/null; do
        sleep 0.2
        if ((SECONDS - start >= 10 && (SECONDS - start) % 10 == 0)); then
            printf '   %s: %d s\n' "$what" $((SECONDS - start)) >&2
            sleep 1
        fi
    done
    trap - INT TERM
    wait "$pid" && return 0
    what_matters "$log" >&2
    return 1
}

# At most ten lines of a log: its first errors with what follows them, else its end.
what_matters() {
    local log=$1 lines
    lines=$(grep -vE '^(error: could not compile|warning: build failed)' "$log" |
        grep -E -m 10 -A 4 "(^| )(fatal )?error(\\[E[0-9]+\\])?:|^E: |undefined reference|panicked at|cannot find -l|No space left" | grep -v '^--$' | cut -c 1-240 | head -n 10)
    [ -n "$lines" ] || lines=$(tail -n 10 "$log" | cut -c 1-240)
    printf '%s\n' "$lines" "   (all of it: $log)"
}

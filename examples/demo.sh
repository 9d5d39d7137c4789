#!/usr/bin/env bash
# Plays examples/demo.opus through the daemon, as fast as it goes, into a timeline of its own, and shows the report of that day.
set -euo pipefail
cd "$(dirname "$0")/.."

command=.venv/bin/emosllm-monitor
# Not the person's own timeline and settings: a demo leaves nothing behind.
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
export XDG_STATE_HOME="$home/state" XDG_CONFIG_HOME="$home/config"
EMOSLLM_STORE_KEY=$(od -An -vtx1 -N32 /dev/urandom | tr -d ' \n')
export EMOSLLM_STORE_KEY

"$command" start --source examples/demo.opus --speed max --at 2026-01-05T09:00
"$command" report --day 2026-01-05

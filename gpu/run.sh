#!/usr/bin/env bash
# One piece of a run on a machine that has PyTorch, and neither DVC nor, perhaps, all packages.
#
#   gpu/run.sh PROFILE [KEY=VALUE ...] -- RUNNER-OPTIONS
#
# With the Python of gpu/python.sh: applies the profile with the settings to params.yaml, and starts
# `tamnas run`. The same command again goes on where the last one stopped. docs/gpu.md has whole commands.
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# -gt 0 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
profile=$1
shift
settings=()
while [ $# -gt 0 ] && [ "$1" != "--" ]; do
  settings+=(--set "$1")
  shift
done
[ $# -eq 0 ] || shift

# From the parameters as they were before the last profile: two would mix.
mkdir -p logs
if cmp -s params.yaml logs/params.applied.yaml; then
  cp logs/params.base.yaml params.yaml
else
  cp params.yaml logs/params.base.yaml
fi
gpu/python.sh -m tamnas profile "$profile" "${settings[@]}"
cp params.yaml logs/params.applied.yaml
exec gpu/python.sh -m tamnas run "$@"

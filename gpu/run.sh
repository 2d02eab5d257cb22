#!/usr/bin/env bash
# One piece of a run on a machine that has PyTorch, and neither DVC nor, perhaps, all packages.
#
#   gpu/run.sh PROFILE [KEY=VALUE ...] -- RUNNER-OPTIONS
#
# Installs wheels/ (`make wheels`) into a folder outside the checkout, checks that nothing is missing, applies
# the profile with the settings to params.yaml, and starts `python -m tamnas.runner`. The same command again
# goes on where the last one stopped. docs/gpu.md has whole commands.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
site=${TAMNAS_SITE:-${TMPDIR:-/tmp}/tamnas-site}

[ $# -gt 0 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
profile=$1
shift
settings=()
while [ $# -gt 0 ] && [ "$1" != "--" ]; do
  settings+=(--set "$1")
  shift
done
[ $# -eq 0 ] || shift

if compgen -G 'wheels/*.whl' >/dev/null && [ ! -e "$site/complete" ]; then  # else an install that was cut off stays
  rm -rf "$site"
  $python -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --target "$site" wheels/*.whl
  touch "$site/complete"
fi
export PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
$python gpu/missing.py
$python -m tamnas.profile "$profile" "${settings[@]}"
exec $python -m tamnas.runner "$@"

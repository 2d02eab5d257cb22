#!/usr/bin/env bash
# Python with the checkout and its missing packages, on a machine that has PyTorch and neither DVC nor a network.
#
#   gpu/python.sh ARGUMENTS-OF-PYTHON
#
# Installs wheels/ (`make wheels`) into a folder outside the checkout, checks that nothing is missing, and starts
# Python in the checkout. docs/gpu.md has whole commands.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
site=${TAMNAS_SITE:-${TMPDIR:-/tmp}/tamnas-site}

[ $# -gt 0 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
if compgen -G 'wheels/*.whl' >/dev/null && [ ! -e "$site/complete" ]; then  # else an install that was cut off stays
  rm -rf "$site"
  $python -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --target "$site" wheels/*.whl
  touch "$site/complete"
fi
export PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
$python gpu/missing.py
exec $python "$@"

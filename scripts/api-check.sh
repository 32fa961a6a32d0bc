#!/usr/bin/env bash
# Both listeners against what they say of themselves: schemathesis calls every route of /openapi.json and of
# /admin/openapi.json with values of every kind, from a fixed seed, on a `tollgate serve` that this script starts with a
# stand-in upstream. About two minutes.
#
#   scripts/api-check.sh [BINARY]      default: the debug build, which is built first
#   scripts/api-check.sh --install     only installs schemathesis
set -euo pipefail
cd "$(dirname "$0")/.."

SCHEMATHESIS=4.32.5

# It stays between runs, in a folder that its version names.
folder=target/schemathesis/$SCHEMATHESIS
if [[ ! -e $folder/complete ]]; then
  mkdir -p "$folder"
  python3 -m venv "$folder/venv"
  "$folder/venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$SCHEMATHESIS"
  touch "$folder/complete"
fi
if [[ ${1:-} == --install ]]; then exit; fi

if [[ $# -gt 0 ]]; then
  binary=$1
else
  cargo build --locked --bin tollgate
  binary=${CARGO_TARGET_DIR:-target}/debug/tollgate
fi

export PYTHONDONTWRITEBYTECODE=1
exec "$folder/venv/bin/python" scripts/api_check.py "$binary" "$folder/venv/bin/schemathesis"

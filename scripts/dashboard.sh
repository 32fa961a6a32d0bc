#!/usr/bin/env bash
# The operator's dashboard in a headless Chromium, against a `tollgate serve` that this script starts on free ports of
# loopback: once with an empty ledger, once with 100,000 rows. Chromium is Debian's (apt-get install chromium).
#
#   scripts/dashboard.sh [BINARY]              default: the debug build, which is built first
#   scripts/dashboard.sh BINARY --pictures DIR writes the pictures there (docs/images), else to target/dashboard/pictures
#   scripts/dashboard.sh --install             only installs what drives the browser
set -euo pipefail
cd "$(dirname "$0")/.."

PLAYWRIGHT=1.65.2
AXE=4.14.1

# What drives the browser stays between runs, in a folder that its versions name.
folder=target/dashboard/playwright-$PLAYWRIGHT-axe-$AXE
if [[ ! -e $folder/complete ]]; then
  mkdir -p "$folder"
  python3 -m venv "$folder/venv"
  "$folder/venv/bin/pip" install --quiet --disable-pip-version-check "playwright==$PLAYWRIGHT"
  echo '{"private": true}' >"$folder/package.json"
  npm install --prefix "$folder" --silent --no-audit --no-fund "axe-core@$AXE"
  touch "$folder/complete"
fi
if [[ ${1:-} == --install ]]; then exit; fi

if [[ $# -gt 0 ]]; then
  binary=$1
  shift
else
  cargo build --locked --bin tollgate
  binary=${CARGO_TARGET_DIR:-target}/debug/tollgate
fi

export PYTHONDONTWRITEBYTECODE=1
exec "$folder/venv/bin/python" scripts/dashboard_check.py "$binary" --axe "$folder/node_modules/axe-core/axe.min.js" "$@"

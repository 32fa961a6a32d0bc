#!/usr/bin/env bash
# The TypeScript package of js/: its types, its tests against a `tollgate serve` on a free port, and what would be published.
#
#   scripts/js-check.sh [BINARY]   default: the debug build, which is built first
#   scripts/js-check.sh --install  only installs the compiler
set -euo pipefail
cd "$(dirname "$0")/.."

TYPESCRIPT=$(sed -n 's/.*"typescript": "\(.*\)".*/\1/p' js/package.json)

folder=target/typescript-$TYPESCRIPT
if [[ ! -e $folder/complete ]]; then
  mkdir -p "$folder"
  echo '{"private": true}' >"$folder/package.json"
  npm install --prefix "$folder" --silent --no-audit --no-fund "typescript@$TYPESCRIPT"
  touch "$folder/complete"
fi
if [[ ${1:-} == --install ]]; then exit; fi

if [[ $# -gt 0 ]]; then
  binary=$1
else
  cargo build --locked --bin tollgate
  binary=${CARGO_TARGET_DIR:-target}/debug/tollgate
fi

rm -rf js/dist
"$folder/node_modules/.bin/tsc" --project js
"$folder/node_modules/.bin/tsc" --project js/test
export PYTHONDONTWRITEBYTECODE=1
python3 scripts/beside_server.py "$binary" node --test js/test/alone.test.mjs js/test/server.test.mjs
# What would be published: the code, its types and the page, and nothing else.
npm pack --silent --dry-run --json ./js | python3 -c '
import json, sys
files = sorted(file["path"] for file in json.load(sys.stdin)[0]["files"])
strange = [name for name in files if not (name.startswith("dist/") or name in ("README.md", "LICENSE", "package.json"))]
sys.exit(f"would be published, and should not be: {strange}" if strange or "dist/index.js" not in files else 0)'

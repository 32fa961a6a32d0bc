#!/usr/bin/env bash
# The TypeScript package of js/: its types, its tests against a `tollgate serve` on a free port, and what would be published.
# The TypeScript blocks of the pages are type-checked, beside the packages that they import.
#
#   scripts/js-check.sh [BINARY]   default: the debug build, which is built first
#   scripts/js-check.sh --build    only builds the package, into js/dist
#   scripts/js-check.sh --install  only installs the compiler, and the packages that the pages' blocks import
set -euo pipefail
cd "$(dirname "$0")/.."

TYPESCRIPT=$(sed -n 's/.*"typescript": "\(.*\)".*/\1/p' js/package.json)

# What the pages show beside the package.
BESIDE=(openai@6.49.0 @anthropic-ai/sdk@1.14.0 ai@6.0.326 @ai-sdk/openai-compatible@2.0.92 @ai-sdk/openai@3.0.141 @supabase/supabase-js@2.119.1 @types/react@19.3.3 @types/node@20)
VERSIONS=$(printf '%s ' "${BESIDE[@]}" | sha256sum | cut -c 1-12)

folder=target/typescript-$TYPESCRIPT
if [[ ! -e $folder/complete ]]; then
  mkdir -p "$folder"
  echo '{"private": true}' >"$folder/package.json"
  npm install --prefix "$folder" --silent --no-audit --no-fund "typescript@$TYPESCRIPT"
  touch "$folder/complete"
fi
if [[ ${1:-} == --build ]]; then
  rm -rf js/dist
  "$folder/node_modules/.bin/tsc" --project js
  exit
fi
packages=target/ts-blocks/packages
if [[ ! -e $packages/complete-$VERSIONS ]]; then
  rm -rf "$packages"
  mkdir -p "$packages"
  echo '{"private": true}' >"$packages/package.json"
  npm install --prefix "$packages" --silent --no-audit --no-fund "${BESIDE[@]}"
  touch "$packages/complete-$VERSIONS"
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
python3 scripts/ts_blocks.py target/ts-blocks
"$folder/node_modules/.bin/tsc" --project js/blocks
export PYTHONDONTWRITEBYTECODE=1
python3 scripts/beside_server.py "$binary" node --test js/test/alone.test.mjs js/test/server.test.mjs
# What the demo prints, with the package as it would be published.
python3 scripts/first_answer.py "$binary" node
# What would be published: the code, its types and the page, and nothing else.
npm pack --silent --dry-run --json ./js | python3 -c '
import json, sys
files = sorted(file["path"] for file in json.load(sys.stdin)[0]["files"])
strange = [name for name in files if not (name.startswith("dist/") or name in ("README.md", "LICENSE", "package.json"))]
sys.exit(f"would be published, and should not be: {strange}" if strange or "dist/index.js" not in files else 0)'

#!/usr/bin/env bash
# The TypeScript of docs/answers.md, word for word, in Chromium and in Node: an answer that is cut off again and again is
# had whole in the end, and paid once. Its types are checked first.
#
#   scripts/resume-check.sh [BINARY]   default: the debug build, which is built first
#   scripts/resume-check.sh --install  only installs what drives the browser, and the compiler
set -euo pipefail
cd "$(dirname "$0")/.."

TYPESCRIPT=5.9.3

scripts/dashboard.sh --install
browser=(target/dashboard/playwright-*/)
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

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# The block that has the function, as it stands on the page.
awk '/^```ts$/ { block = ""; inside = 1; next } /^```$/ && inside { if (block ~ /function follow/) printf "%s", block; inside = 0 }
  inside { block = block $0 "\n" }' docs/answers.md >"$scratch/follow.ts"
"$folder/node_modules/.bin/tsc" --strict --target es2022 --module none --moduleDetection legacy --lib es2022,dom,dom.iterable --outDir "$scratch" "$scratch/follow.ts"

export PYTHONDONTWRITEBYTECODE=1
"${browser[-1]}venv/bin/python" scripts/resume_check.py "$binary" "$scratch/follow.js"

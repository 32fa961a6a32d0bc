#!/usr/bin/env bash
# The SDKs that apps are built with against a `tollgate serve` that this script starts (scripts/sdk_matrix.py says how).
# Nothing leaves this machine but the installation of the SDKs.
#
#   scripts/sdk-matrix.sh [--quick] [BINARY]      default: the debug build, which is built first
#   scripts/sdk-matrix.sh [--quick] --install     only installs the SDKs
#
# --quick: one SDK of Python and those of JavaScript; the whole takes minutes to install.
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A python=(
  [openai]='openai==3.57.0'
  [langchain-openai]='langchain-openai==1.7.4'
  [pydantic-ai]='pydantic-ai-slim[openai]==2.68.0'
  [openai-agents]='openai-agents==0.24.0'
  [instructor]='instructor==1.17.0'
  [llama-index]='llama-index-llms-openai-like==0.8.1'
)
node=(ai@6.0.326 @ai-sdk/openai-compatible@2.0.92 @ai-sdk/openai@3.0.141 @langchain/openai@1.5.8 @langchain/core@1.4.0 zod@4.6.7)
wanted=("${!python[@]}")
kind=whole
if [[ ${1:-} == --quick ]]; then
  wanted=(langchain-openai)
  kind=quick
  shift
fi

# The SDKs stay between runs, in a folder that their versions name.
versions=$(for name in "${wanted[@]}"; do echo "${python[$name]}"; done | sort; echo "${node[@]}")
folder=target/sdk/matrix-$kind-$(sha256sum <<<"$versions" | cut -c 1-12)
if [[ ! -e $folder/complete ]]; then
  mkdir -p "$folder/node"
  for name in "${wanted[@]}"; do
    python3 -m venv "$folder/$name"
    "$folder/$name/bin/pip" install --quiet --disable-pip-version-check "${python[$name]}"
  done
  echo '{"private": true, "type": "module"}' >"$folder/node/package.json"
  npm install --prefix "$folder/node" --silent --no-audit --no-fund "${node[@]}"
  touch "$folder/complete"
fi
if [[ ${1:-} == --install ]]; then exit; fi

if [[ $# -gt 0 ]]; then
  binary=$1
else
  cargo build --locked --bin tollgate
  binary=${CARGO_TARGET_DIR:-target}/debug/tollgate
fi
# Node looks for packages beside the script, so the script goes to the packages.
cp scripts/sdk_matrix.mjs "$folder/node/"

export SDKS_FOLDER=$folder PYTHONDONTWRITEBYTECODE=1
exec python3 scripts/sdk_matrix.py "$binary" --page docs/clients.md

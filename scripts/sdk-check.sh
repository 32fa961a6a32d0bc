#!/usr/bin/env bash
# OpenAI's and Anthropic's own Python and Node SDKs against a `tollgate serve` that this script starts, on free ports of loopback, with a
# stand-in upstream. Nothing leaves this machine but the installation of the SDKs.
#
#   scripts/sdk-check.sh [BINARY]      default: the debug build, which is built first
#   scripts/sdk-check.sh --install     only installs the SDKs
set -euo pipefail
cd "$(dirname "$0")/.."

OPENAI_PYTHON=3.54.0
OPENAI_NODE=6.49.0 # the last for Node 20
ANTHROPIC_PYTHON=2.14.0
ANTHROPIC_NODE=1.14.0

# The SDKs stay between runs, in a folder that their versions name.
folder=target/sdk/python-$OPENAI_PYTHON-node-$OPENAI_NODE-anthropic-$ANTHROPIC_PYTHON-$ANTHROPIC_NODE
if [[ ! -e $folder/complete ]]; then
  mkdir -p "$folder"
  python3 -m venv "$folder/venv"
  "$folder/venv/bin/pip" install --quiet --disable-pip-version-check "openai==$OPENAI_PYTHON" "anthropic==$ANTHROPIC_PYTHON"
  echo '{"private": true, "type": "module"}' >"$folder/package.json"
  npm install --prefix "$folder" --silent --no-audit --no-fund "openai@$OPENAI_NODE" "@anthropic-ai/sdk@$ANTHROPIC_NODE"
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
cp scripts/sdk_check.mjs scripts/anthropic_check.mjs "$folder/"

export NODE_FOLDER=$folder PYTHONDONTWRITEBYTECODE=1
"$folder/venv/bin/python" scripts/sdk_check.py "$binary"
exec "$folder/venv/bin/python" scripts/anthropic_check.py "$binary"

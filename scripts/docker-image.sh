#!/usr/bin/env bash
# The image around a binary that is built already (deploy/prebuilt/Dockerfile), in seconds and without a compiler.
#
#   scripts/docker-image.sh target/release/tollgate [name, by default `tollgate`]
set -euo pipefail
binary=$(realpath "$1")
name=${2:-tollgate}
cd "$(dirname "$0")/.."

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
mkdir "$context/data"
cp --reflink=auto "$binary" "$context/tollgate"
"${DOCKER:-docker}" build --quiet --tag "$name" --file deploy/prebuilt/Dockerfile "$context"

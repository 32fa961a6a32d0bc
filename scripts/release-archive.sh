#!/usr/bin/env bash
# The archive of a release, around a binary that is built: what one machine needs, with systemd or with Docker. The unpacked folder
# is one that `docker compose up -d --wait` starts from: its Dockerfile copies the binary, so nothing is compiled.
#
#   scripts/release-archive.sh target/release/tollgate tollgate-v0.1.0-x86_64-unknown-linux-gnu dist
set -euo pipefail
binary=$(realpath "$1")
name=$2
mkdir -p "$3"
into=$(realpath "$3")
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder/$name/data"
cp "$binary" "$folder/$name/tollgate"
cp README.md LICENSE CHANGELOG.md SECURITY.md tollgate.example.toml .env.example docker-compose.yml "$folder/$name/"
cp deploy/prebuilt/Dockerfile "$folder/$name/Dockerfile"
cp -r docs deploy "$folder/$name/"
# What the container must read, whatever umask made it.
chmod -R a+rX "$folder/$name"
# The same commit and binary give the same archive.
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$(git log -1 --format=%ct)" -C "$folder" -c "$name" | gzip -n >"$into/$name.tar.gz"
cd "$into"
sha256sum "$name.tar.gz" >"$name.sha256"

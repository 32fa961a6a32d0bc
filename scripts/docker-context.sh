#!/usr/bin/env bash
# Are all files that the sources embed (include_str!, include_bytes!) let through by .dockerignore? Without them the image
# does not build, and nothing but Docker would notice.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=0
found=0
while IFS=: read -r source embedded; do
  found=$((found + 1))
  path=$(realpath --relative-to=. "$(dirname "$source")/$embedded")
  if [[ ! -f $path ]]; then
    printf '%s embeds %s, which is not there\n' "$source" "$path"
    failed=1
  elif ! grep -qxF -e "!$path" -e "!${path%%/*}" .dockerignore; then
    printf '%s embeds %s, which .dockerignore keeps out\n' "$source" "$path"
    failed=1
  fi
done < <(grep -rPo 'include_(str|bytes)!\("\K[^"]+' src)

if [[ $found -eq 0 ]]; then
  echo 'no embedded file was found: this script looks in the wrong place'
  failed=1
fi
# The members of the workspace: without its manifest cargo refuses to build anything.
members=$(sed -n 's/^members = \[\(.*\)\]$/\1/p' Cargo.toml | tr -d '",')
[[ -n $members ]] || { echo 'no members of the workspace were found: this script looks in the wrong place' && failed=1; }
for member in $members; do
  manifest=$member/Cargo.toml
  if ! grep -qxF "!$manifest" .dockerignore || ! grep -qF "COPY $manifest " Dockerfile; then
    printf '%s is wanted by the workspace, and the image does not get it\n' "$manifest"
    failed=1
  fi
done
# Of the sources that the manifests name, the Dockerfile makes empty ones, so that the dependencies are a layer of their own.
made=" $(sed -n 's/^RUN mkdir -p \(.*\) \\$/\1/p' Dockerfile) "
for source in src/lib.rs $(sed -n 's/^path = "\(.*\.rs\)"$/\1/p' Cargo.toml) $(for member in $members; do for name in main lib; do [[ ! -f $member/src/$name.rs ]] || echo "$member/src/$name.rs"; done; done); do
  if [[ $made != *" $(dirname "$source") "* ]] || ! grep -qF -e "touch $source " -e "touch src/lib.rs $source " -e "> $source " -e "cp src/main.rs $source " Dockerfile; then
    printf '%s is named by a manifest, and the Dockerfile makes no empty one\n' "$source"
    failed=1
  fi
done
[[ $failed -eq 0 ]] && echo "$found embedded files are in Docker's context"
exit "$failed"

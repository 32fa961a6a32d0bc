#!/usr/bin/env bash
# Installs what the tests need besides Rust, where it may, and runs them: `cargo test --locked --workspace`.
#
#   scripts/test.sh [ARGUMENTS FOR cargo test]      for example: scripts/test.sh --test it limits
#
# It installs on Debian and Ubuntu, as root or with a sudo that asks for no password. Elsewhere it names what is missing. The
# tests that need it then say NOT CHECKED and pass; all others run. What was not checked is listed again at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
export DEBIAN_FRONTEND=noninteractive

if [[ $(uname -s) != Linux ]]; then
  # shellcheck disable=SC2016 # $PWD is for whoever copies the line.
  echo 'The tests run on Linux. In a container: docker run --rm -it -v "$PWD:/src" -w /src rust:1.95 scripts/test.sh' >&2
  exit 1
fi
if ! command -v cargo >/dev/null; then
  echo 'cargo is missing: install Rust from https://rustup.rs' >&2
  exit 1
fi

# Debian's names of the packages that are not installed. The tests look in the same places: tests/it/support/tools.rs.
find_missing() {
  local sbin=$PATH:/usr/sbin
  missing=()
  command -v cc >/dev/null || missing+=(gcc libc6-dev)
  command -v openssl >/dev/null || missing+=(openssl)
  compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || compgen -G '/usr/lib*/faketime/libfaketimeMT.so.1' >/dev/null ||
    missing+=(faketime)
  compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || [[ -x $(pg_config --bindir 2>/dev/null)/initdb ]] ||
    missing+=(postgresql)
  PATH=$sbin command -v pgbouncer >/dev/null || missing+=(pgbouncer)
}

install_missing() {
  local as_root=() try
  command -v apt-get >/dev/null || return 1
  if [[ $(id -u) != 0 ]]; then
    sudo -n true 2>/dev/null || return 1
    as_root=(sudo -n --preserve-env=DEBIAN_FRONTEND)
  fi
  printf 'installing: %s\n' "${missing[*]}"
  for try in 1 2 3; do
    if "${as_root[@]}" apt-get update -qq &&
      "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; then
      return 0
    fi
    sleep $((try * 5))
  done
  return 1
}

find_missing
if [[ ${#missing[@]} -gt 0 ]]; then
  install_missing || true
  find_missing
fi
if [[ ${#missing[@]} -gt 0 ]]; then
  printf 'missing, and not installed by this script here: %s\n' "${missing[*]}"
  printf 'On Debian and Ubuntu: sudo apt-get install %s\n' "${missing[*]}"
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
cargo test --locked --workspace "$@" 2>&1 | tee "$log" || status=$?
grep -o 'NOT CHECKED: .*' "$log" | sort -u || true
exit "$status"

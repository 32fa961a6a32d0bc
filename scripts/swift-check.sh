#!/usr/bin/env bash
# The Swift package: format, warnings as errors, tests against a `tollgate serve` on a free port; the steps of docs/first-answer.md;
# and every Swift block of the pages, and examples/ios. Swift is Debian trixie's, in a folder of its own (1.3 GB), which a command
# enters by chroot. Where that cannot be had, it says NOT CHECKED and succeeds.
#
#   scripts/swift-check.sh [--tsan] [BINARY]   default: the debug build, which is built first
#
# --tsan runs the tests once more under the thread sanitizer.
set -euo pipefail
cd "$(dirname "$0")/.."

root=${TOLLGATE_SWIFT_ROOT:-$HOME/.cache/tollgate/swift-trixie}

not_checked() {
  printf 'NOT CHECKED: the Swift package: %s\n' "$1"
  exit 0
}

# The folder: made once, complete when .ready is there.
make_root() {
  local options=() path swift=/usr/libexec/swift
  command -v mmdebstrap >/dev/null || apt-get install -y -qq --no-install-recommends mmdebstrap >/dev/null || return 1
  for path in /usr/share/{doc,man,locale}/'*' "$swift"/lib/{swift/embedded,swift_static}/'*' \
    "$swift"/bin/{'lldb*',clangd,sourcekit-lsp} "$swift"/lib/{'liblldb*','libsourcekitd*','libLTO*'}; do
    options+=("--dpkgopt=path-exclude=$path")
  done
  rm -rf "$root"
  mkdir -p "${root%/*}"
  mmdebstrap --quiet --variant=essential --aptopt='Acquire::Languages "none"' --dpkgopt=force-unsafe-io "${options[@]}" \
    --include=swiftlang,libc6-dev,libstdc++-14-dev,git trixie "$root" || return 1
  touch "$root/.ready"
}

# Runs a line of shell in it, with this checkout at /src. Its mounts are in a namespace of their own and go with it.
in_swift() {
  # shellcheck disable=SC2016
  unshare --mount --propagation private bash -c '
    mkdir -p "$0/src"
    mount -t proc proc "$0/proc" && mount --bind /dev "$0/dev" && mount --bind "$PWD" "$0/src"
    exec chroot "$0" env -i HOME=/root PATH=/usr/bin:/bin LANG=C.UTF-8 SERVER="${SERVER-}" LOST="${LOST-}" TOKENS="${TOKENS-}" \
      sh -c "cd /src && $1"' "$root" "$1"
}

if [[ ${1:-} == --inside ]]; then
  in_swift "$2"
  exit
fi

tsan=
if [[ ${1:-} == --tsan ]]; then
  tsan=yes
  shift
fi
[[ $(id -u) == 0 ]] || not_checked 'only root can enter another root directory'
[[ -e $root/.ready ]] || make_root || not_checked 'Debian trixie cannot be installed here'
in_swift true || not_checked 'mounting is not allowed here'

if [[ $# -gt 0 ]]; then
  binary=$1
else
  cargo build --locked --bin tollgate
  binary=${CARGO_TARGET_DIR:-target}/debug/tollgate
fi

in_swift 'swift --version 2>/dev/null | head -n 1'
in_swift 'swift format lint --strict --recursive Package.swift swift examples/ios'
export PYTHONDONTWRITEBYTECODE=1
# Debian's library of @Observable lacks a symbol that nothing here calls.
flags='-Xlinker --allow-shlib-undefined -Xswiftc -warnings-as-errors'
# Builds and tests in a folder of its own, with more flags.
tested() {
  local more="--scratch-path target/$1 $flags ${*:2}"
  in_swift "swift build --quiet --build-tests $more"
  python3 scripts/beside_server.py "$binary" scripts/swift-check.sh --inside "swift test --quiet --skip-build --disable-xctest $more"
}
tested swift
# What a reader does who has never seen it.
python3 scripts/first_answer.py "$binary" swift

# What a release is to an app: a tag. The clone is whole, since a worktree's repository is not in the folder.
if in_swift 'command -v git >/dev/null'; then
  rm -rf target/swift-tag
  git clone --quiet . target/swift-tag
  in_swift "cd target/swift-tag && git config --global --replace-all safe.directory '*' && bash scripts/packages.sh --swift"
else
  echo "NOT CHECKED: the Swift package by its tag: there is no git in $root; remove that folder"
fi

# The pages' blocks, as old and new projects compile them. Of what only Apple's systems have, and of the packages of others
# (Supabase, RevenueCat, Superwall), swift/Blocks has stubs with the shapes that the pages use.
python3 scripts/swift_blocks.py target/swift-blocks
# shellcheck disable=SC2016
in_swift 'cd target/swift-blocks
  blocks=../../swift/Blocks
  # The stubs of what Apple and the stores have are in a folder of their own: what asks whether there is a StoreKit is told no
  # where that folder is not named. With it, the package is compiled once more, with its files for Apple systems.
  mkdir -p apple
  module() { swiftc -emit-module -parse-as-library -warnings-as-errors -module-name "$1" -o "$2/$1.swiftmodule" -I . -I "$2" $3; }
  for name in Supabase SwiftUI; do module $name . $blocks/$name.swift || exit; done
  for name in CryptoKit DeviceCheck FirebaseAppCheck RevenueCat StoreKit SuperwallKit; do module $name apple $blocks/$name.swift || exit; done
  for name in Tollgate TollgateUI; do module $name apple "-swift-version 6 ../../swift/Sources/$name/*.swift" || exit; done
  check() { swiftc -typecheck -parse-as-library -warnings-as-errors -I . "$@"; }
  each() {
    case $1 in
      *.package.swift)
        if grep -q "^import StoreKit" "$1"; then set -- "$1" "$2" -I apple $blocks/Store.swift; else set -- "$1" "$2" -I ../swift/debug/Modules; fi
        page=$1 mode=$2
        shift 2
        check -swift-version "$mode" "$@" $blocks/App.swift $blocks/PaywallShape.swift "$page" ;;
      *) check -swift-version "$2" -I apple $blocks/Shim.swift "$1" ;;
    esac || { echo "$1, in mode $2"; exit 1; }
  }
  echo "$(ls *.swift | wc -l) pages with Swift, in modes 5 and 6"
  # Two at a time: each takes some seconds.
  for page in *.swift; do
    each "$page" 5 & first=$!
    each "$page" 6 && wait $first || exit
  done
  for mode in 5 6; do
    check -swift-version $mode -I ../swift/debug/Modules $blocks/PaywallShape.swift ../../examples/ios/*.swift || exit
    check -swift-version $mode -I apple ../../examples/ios/*.swift || exit
  done'
if [[ -n $tsan ]]; then tested swift-tsan --sanitize=thread; fi

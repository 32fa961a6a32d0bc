#!/usr/bin/env bash
# What a release needs to know of the packages for Swift and TypeScript: that their versions are the server's, that SwiftPM can
# take the tag, and the file for npm.
#
#   scripts/packages.sh [TAG]        the versions agree (with the tag vX.Y.Z, too)
#   scripts/packages.sh --swift      a program that takes this commit's tag by git, as an app would, builds; wants swift and git
#   scripts/packages.sh --npm DIR    writes the npm tarball and its checksum into DIR; wants npm
set -euo pipefail
cd "$(dirname "$0")/.."

# The one line of a file that fits, or nothing.
said() { sed -nE "s/$2/\1/p" "$1" | head -n 1; }

version=$(said Cargo.toml '^version = "(.*)"$')
agree() {
  local package swift
  package=$(said js/package.json '^  "version": "(.*)",$')
  swift=$(said swift/Sources/Tollgate/TollgateClient.swift '^ *public static let version = "(.*)"$')
  [[ -n $version && $package == "$version" && $swift == "$version" ]] ||
    { printf 'Cargo.toml says version %s, js/package.json %s, and TollgateClient.version %s: make them one\n' "$version" "$package" "$swift" && exit 1; }
  cmp -s LICENSE js/LICENSE || { echo 'js/LICENSE is not LICENSE: npm takes only what is below js/' && exit 1; }
}

case ${1:-} in
--swift)
  agree
  place=$(mktemp -d)
  trap 'rm -rf "$place"' EXIT
  # SwiftPM takes a remote package from the root of a repository, by a tag. This commit has it here, whether or not it is released.
  git clone --quiet --bare . "$place/tollgate"
  git -C "$place/tollgate" tag --force "v$version" "$(git rev-parse HEAD)" >/dev/null
  mkdir -p "$place/app/Sources/app"
  cat >"$place/app/Package.swift" <<END
// swift-tools-version: 6.0
import PackageDescription
let package = Package(
    name: "app", platforms: [.macOS(.v13)], dependencies: [.package(url: "file://$place/tollgate", exact: "$version")],
    targets: [.executableTarget(name: "app", dependencies: [.product(name: "Tollgate", package: "tollgate")])])
END
  printf 'import Tollgate\nprint("Tollgate \\(TollgateClient.version), by its tag")\n' >"$place/app/Sources/app/main.swift"
  swift run --quiet --package-path "$place/app"
  ;;
--npm)
  agree
  mkdir -p "$2"
  into=$(realpath "$2")
  scripts/js-check.sh --build
  cd "$into"
  name=$(npm pack --silent "$OLDPWD/js")
  sha256sum "$name" >"$name.sha256"
  printf '%s, %s bytes\n' "$name" "$(stat -c %s "$name")"
  ;;
*)
  agree
  [[ $# -eq 0 || $1 == "v$version" ]] || { printf 'the tag is %s, and the version %s\n' "$1" "$version" && exit 1; }
  printf 'version %s: the server, the Swift package, the npm package\n' "$version"
  ;;
esac

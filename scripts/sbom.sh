#!/usr/bin/env bash
# The bill of materials of the binary, as CycloneDX JSON: every crate in it, with version, checksum and licence.
#
#   scripts/sbom.sh                          target/sbom/tollgate.cdx.json, for this machine's kind
#   scripts/sbom.sh aarch64-unknown-linux-gnu   the same for another
#
# Needs cargo-cyclonedx (cargo install --locked cargo-cyclonedx). With python3 and cyclonedx-python-lib[json-validation]
# installed the result is held against the schema too; SBOM_PYTHON names another python3.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${1:-$(rustc -vV | sed -n 's/^host: //p')}
out=target/sbom/tollgate.cdx.json
mkdir -p target/sbom
# What is shipped does not differ from one run to the next: the time is that of the last commit.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
cargo cyclonedx --quiet --format json --spec-version 1.5 --describe binaries --target "$target"
# It writes one beside each binary of the workspace; only this one is shipped. No path of this machine stays in it.
sed "s|path+file://$PWD#|pkg:cargo/|g; s|path+file://$PWD/http1#|pkg:cargo/|g" tollgate_bin.cdx.json >"$out"
rm -f tollgate_bin.cdx.json bench/*_bin.cdx.json

cargo tree --locked --package tollgate --target "$target" --edges normal --prefix none |
  awk '{ sub(/^v/, "", $2); print $1, $2 }' | sort -u >target/sbom/crates
${SBOM_PYTHON:-python3} - "$out" target/sbom/crates <<'PYTHON'
import json, sys

text = open(sys.argv[1]).read()
bom = json.loads(text)
listed = {(part["name"], part["version"]) for part in bom["components"] + [bom["metadata"]["component"]]}
missing = [crate for crate in map(str.split, open(sys.argv[2])) if tuple(crate) not in listed]
if missing:
    sys.exit(f"in the binary and not in {sys.argv[1]}: {missing}")
bare = [part["name"] for part in bom["components"] if not part.get("licenses")]
if bare:
    sys.exit(f"without a licence: {bare}")
try:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
except ImportError:
    checked = "not held against the schema (pip install 'cyclonedx-python-lib[json-validation]')"
else:
    if wrong := JsonStrictValidator(SchemaVersion.V1_5).validate_str(text):
        sys.exit(f"{sys.argv[1]}: {wrong}")
    checked = "as the schema of CycloneDX 1.5 has it"
print(f"{sys.argv[1]}: {len(bom['components'])} components, {checked}")
PYTHON

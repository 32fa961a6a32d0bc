#!/usr/bin/env bash
# The Kotlin blocks of docs/ are compiled beside stubs of the libraries that they use (scripts/stubs/recipes.kt), and the Dart
# blocks are parsed. Neither is run.
#
#   scripts/recipe-check.sh
#   scripts/recipe-check.sh --install   only installs the compiler, a Java runtime for it (as root), and the parser
set -euo pipefail
cd "$(dirname "$0")/.."

KOTLIN=2.4.20
PARSERS=0.9.1

folder=target/recipes-$KOTLIN-$PARSERS
if [[ ! -e $folder/complete ]]; then
  command -v java >/dev/null || apt-get install -y -qq --no-install-recommends openjdk-17-jre-headless >/dev/null
  mkdir -p "$folder"
  echo '{"private": true}' >"$folder/package.json"
  npm install --prefix "$folder" --silent --no-audit --no-fund --ignore-scripts "kotlin-compiler@$KOTLIN"
  python3 -m venv --clear "$folder/venv"
  "$folder/venv/bin/pip" install --quiet "tree-sitter-language-pack==$PARSERS"
  touch "$folder/complete"
fi
if [[ ${1:-} == --install ]]; then exit; fi

"$folder/venv/bin/python" scripts/recipe_blocks.py "$folder/blocks"
lib=$folder/node_modules/kotlin-compiler/lib
java -cp "$lib/kotlin-compiler.jar" org.jetbrains.kotlin.cli.jvm.K2JVMCompiler -no-stdlib -no-reflect \
  -cp "$lib/kotlin-stdlib.jar:$lib/kotlinx-coroutines-core-jvm.jar" -d "$folder/compiled" \
  scripts/stubs/recipes.kt "$folder"/blocks/*.kt
echo "the Kotlin of the recipes compiles"

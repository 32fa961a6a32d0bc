"""Writes each Kotlin block of the recipes to a file of its own, for the compiler, and has every Dart block parsed.

    recipe_blocks.py FOLDER

Each Kotlin file is a package of its own and has the imports that an editor adds. A Dart block is only parsed: there is no
Dart here whose libraries could be asked.
"""

import pathlib
import re
import sys

BLOCK = re.compile(r"^```(?P<kind>kotlin|dart)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
IMPORTS = ("kotlinx.coroutines.*", "kotlinx.coroutines.flow.*", "kotlin.time.Duration.Companion.seconds", "stubs.*",
           "stubs.MediaType.Companion.toMediaType", "stubs.RequestBody.Companion.toRequestBody")


def blocks():
    """(page, line before the text, kind, text) of every block."""
    for page in sorted(pathlib.Path("docs").rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            yield page, text[: match.start("text")].count("\n"), match["kind"], match["text"]


def write_kotlin(folder, page, line, text):
    """The lines of the file are those of the page, so that errors name them: what is added stands in the first."""
    name = f"{page.stem}_{line + 1}"
    head = f"package {name}; " + "".join(f"import {what}; " for what in IMPORTS)
    (folder / f"{name}.kt").write_text(head + "\n" * line + text, encoding="utf-8")


def parse_dart(page, line, text):
    """Ends the program at the first line that is no Dart."""
    from tree_sitter_language_pack import get_parser

    todo = [get_parser("dart").parse(text.encode()).root_node]
    while todo:
        node = todo.pop()
        if node.is_error or node.is_missing:
            raise SystemExit(f"{page}:{line + 1 + node.start_point[0]}: this is no Dart")
        todo += node.children


def main():
    """Both languages."""
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.kt"):
        old.unlink()
    count = {"kotlin": 0, "dart": 0}
    for page, line, kind, text in blocks():
        count[kind] += 1
        if kind == "kotlin":
            write_kotlin(folder, page, line, text)
        else:
            parse_dart(page, line, text)
    print(f"{count['kotlin']} blocks of Kotlin, to be compiled; {count['dart']} blocks of Dart, parsed")
    if not all(count.values()):
        raise SystemExit("a language has no block: is BLOCK still right?")


if __name__ == "__main__":
    main()

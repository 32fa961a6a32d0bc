"""Writes the Swift blocks of the documentation to files that the compiler can check, one for each page; prints their names.

A page may build on another's blocks. Blocks that are statements, not declarations, go into a function of their own.
"""

import pathlib
import re
import sys

# Pages whose blocks use the types of another page.
BUILDS_ON = {"errors.md": "ios.md", "answers.md": "ios.md", "responses.md": "ios.md"}
BLOCK = re.compile(r"^```swift\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DECLARATION = re.compile(r"(?:@\w+\s+)*(?:\w+\s+)*(?:struct|class|enum|actor|extension|func|protocol)\b")


def blocks(page):
    """The blocks of a page, in its order."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def written(page, folder):
    """One file with all blocks of a page, after those that it builds on."""
    docs = page.parent
    parts = blocks(docs / BUILDS_ON[page.name]) if page.name in BUILDS_ON else []
    parts += blocks(page)
    imports, code = {"import Foundation", "import FoundationNetworking"}, []
    for number, part in enumerate(parts):
        lines = part.splitlines()
        imports |= {line for line in lines if line.startswith("import ")}
        rest = "\n".join(line for line in lines if not line.startswith("import "))
        outer = [line for line in rest.splitlines() if line and line[0] not in " })]" and not line.startswith(("//", "@"))]
        if all(DECLARATION.match(line) for line in outer):
            code.append(rest)
        else:
            code.append(f"@MainActor func block{number}() async throws {{\n{rest}\n}}")
    file = folder / (page.stem + ".swift")
    file.write_text("\n".join(sorted(imports)) + "\n\n" + "\n\n".join(code) + "\n", encoding="utf-8")
    return file


def main():
    """Writes all of them."""
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.swift"):
        old.unlink()
    for page in sorted(pathlib.Path("docs").glob("*.md")):
        # What only Apple's systems have cannot be compiled here.
        if {name for part in blocks(page) for name in re.findall(r"^import (\w+)", part, re.MULTILINE)} - {"Foundation", "Supabase"}:
            print(f"not compiled here: {page}")
        elif blocks(page):
            print(written(page, folder))


if __name__ == "__main__":
    main()

"""Writes the Swift blocks of the documentation to files that the compiler can check, one for each page; prints their names.

A page may build on another's blocks. Blocks that are statements, not declarations, go into a function of their own. A page
that imports the package finds around its blocks what an app has (swift/Blocks/App.swift), and a client, if it makes none.
"""

import pathlib
import re
import sys
import textwrap

# Pages whose blocks use the types of another page.
BUILDS_ON = {"errors.md": "ios.md", "answers.md": "ios.md", "responses.md": "ios.md"}
# What can be imported here: Foundation, the package, and the stubs in swift/Blocks of what others make.
KNOWN = {"CryptoKit", "DeviceCheck", "FirebaseAppCheck", "Foundation", "RevenueCat", "StoreKit", "Supabase", "SuperwallKit", "SwiftUI", "Tollgate", "TollgateUI"}
# In lists, blocks are indented. One that only Apple's systems can compile has a line before it that says so.
BLOCK = re.compile(r"^(?: *<!-- not compiled here: (?P<why>[^\n]*) -->\n+)?(?P<indent> *)```swift\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
DECLARATION = re.compile(r"(?:@\w+\s+)*(?:\w+\s+)*(?:struct|class|enum|actor|extension|func|protocol)\b|let \w+ = TollgateClient\(")
CLIENT = 'let tollgate = TollgateClient(URL(string: "https://api.example.com")!) { _ in "" }'


def pages():
    """Every page that may have Swift in it."""
    for pattern in ("README.md", "docs/*.md", "docs/recipes/*.md", "swift/README.md", "swift/Sources/*/*.docc/*.md", "examples/ios/*.md"):
        yield from sorted(pathlib.Path().glob(pattern))


def blocks(page):
    """(first line, text) of the blocks of a page, in its order."""
    text = page.read_text(encoding="utf-8")
    found = [match for match in BLOCK.finditer(text) if match["why"] is None]
    return [(page, text[: match.start("text")].count("\n") + 1, textwrap.dedent(match["text"])) for match in found]


def left_out(page):
    """Why blocks of a page are not compiled."""
    return sorted({match["why"] for match in BLOCK.finditer(page.read_text(encoding="utf-8"))} - {None})


def imported(parts):
    """The modules that blocks import."""
    return {name for _, _, part in parts for name in re.findall(r"^import (\w+)", part, re.MULTILINE)}


def written(page, folder):
    """One file with all blocks of a page, after those that it builds on."""
    parts = blocks(page.parent / BUILDS_ON[page.name]) if page.name in BUILDS_ON else []
    parts += blocks(page)
    modules = {"Foundation", "FoundationNetworking"} | imported(parts)
    code, begin, is_of_package = [], "", "Tollgate" in modules
    for number, (source, line, part) in enumerate(parts):
        place = f'#sourceLocation(file: "{source}", line: {line})\n'
        # An import stays as an empty line, so that the lines of errors are the page's.
        rest = re.sub(r"^import \w+$", "", part, flags=re.MULTILINE)
        outer = [text for text in rest.splitlines() if text and text[0] not in " })]" and not text.startswith(("//", "@"))]
        if all(DECLARATION.match(text) for text in outer):
            code.append(f"{place}{rest}\n#sourceLocation()")
        else:
            code.append(f"@MainActor func block{number}() async throws {{\n{place}{rest}\n#sourceLocation()\n}}")
    if is_of_package and not any("let tollgate = " in part for _, _, part in parts):
        begin = CLIENT + "\n\n"
    # The checker takes what else a page needs from its name.
    kind = "package" if is_of_package else "plain"
    file = folder / f"{'-'.join(page.with_suffix('').parts)}.{kind}.swift"
    imports = "\n".join(f"import {name}" for name in sorted(modules))
    file.write_text(f"{imports}\n\n{begin}" + "\n\n".join(code) + "\n", encoding="utf-8")
    return file


def main():
    """Writes all of them."""
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.swift"):
        old.unlink()
    for page in pages():
        strange = sorted(imported(blocks(page)) - KNOWN)
        for why in left_out(page) + strange:
            print(f"NOT CHECKED: Swift of {page}: {why}")
        if blocks(page) and not strange:
            written(page, folder)


if __name__ == "__main__":
    main()

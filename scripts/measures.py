#!/usr/bin/env python3
"""Prints how the code of a folder (src by default) measures, without its tests.

    scripts/measures.py [FOLDER] [--shared] [--participles] [--long]

--shared lists the type names that two or more types carry, --participles the type names that look like one, --long the
files and functions that are longest. Tests are files of a module that is declared under `#[cfg(test)]`, what lies below
them, and items that stand under that attribute.
"""

import re
import statistics
import sys
from pathlib import Path

TYPE = re.compile(r"\b(?:struct|enum|union|trait)\s+([A-Z]\w*)")
FUNCTION = re.compile(r"\bfn\s+\w+")
TEST_ITEM = re.compile(r"#\[cfg\((?:test|all\(test\b[^\]]*)\)\]")
CODE = re.compile(
    r'(?P<comment>//[^\n]*|/\*.*?\*/)'
    r'|(?P<raw>\bb?r(?P<hashes>#*)".*?"(?P=hashes))'
    r'|(?P<text>b?"(?:\\.|[^"\\])*")'
    r"|(?P<letter>b?'(?:\\(?:x[0-9a-fA-F]{2}|u\{[^}]*\}|.)|[^'\\\n])')",
    re.S,
)
# Words that end like a participle and are nouns, and participles that do not end in -ed.
NOUNS = {"Seed", "Feed", "Need", "Speed", "Embed", "Shed", "Bed", "Thread", "Unauthorized", "Weekday", "Embedding", "Setting",
         "Billing", "Pricing", "String", "Ring", "Ping", "Timing", "Encoding", "Heading", "Listing", "Meaning", "Reading", "Spelling",
         "Warning", "Finding", "Rounding", "Mapping", "Thing", "Reasoning", "Framing", "Routing", "Tracing", "Logging", "Streaming",
         "Padding", "Offering", "Settings", "Bound"}
IRREGULAR = {"Kept", "Told", "Said", "Sent", "Read", "Held", "Known", "Taken", "Given", "Written", "Seen", "Found", "Made", "Done",
             "Gone", "Lost", "Paid", "Spent", "Meant", "Left", "Shown", "Drawn", "Chosen", "Asked", "Put", "Cut", "Bound", "Built",
             "Unsent", "Unread", "Unknown"}


def blanked(text):
    """The code with comments, strings and letters turned into spaces; lines stay where they are."""
    return CODE.sub(lambda found: re.sub(r"[^\n]", " ", found.group()), text)


def closing(code, start):
    """Where the item that starts at `start` ends: after its block, or after its semicolon."""
    depth = 0
    for at in range(start, len(code)):
        letter = code[at]
        if letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
            if depth == 0 and letter == "}":
                return at + 1
        elif letter == ";" and depth == 0:
            return at + 1
    return len(code)


def without_tests(text, code):
    """Text and code without the items under `#[cfg(test)]`, and the names of the modules declared there."""
    spans, modules = [], []
    for found in TEST_ITEM.finditer(code):
        if spans and found.start() < spans[-1][1]:
            continue
        end = closing(code, found.end())
        spans.append((found.start(), end))
        declared = re.search(r"\bmod\s+(\w+)\s*;", code[found.end():end])
        if declared:
            modules.append(declared.group(1))
    for start, end in reversed(spans):
        text, code = text[:start] + text[end:], code[:start] + code[end:]
    return text, code, modules


def sources(folder):
    """Every file without its tests: {path: (text, code)}."""
    read, tests = {}, set()
    for path in sorted(folder.rglob("*.rs")):
        text = path.read_text()
        text, code, modules = without_tests(text, blanked(text))
        read[path] = (text, code)
        home = path.parent if path.name in ("mod.rs", "lib.rs", "main.rs") else path.with_suffix("")
        for module in modules:
            tests.update((home / f"{module}.rs", home / module))
    return {path: both for path, both in read.items() if not tests.intersection((path, *path.parents))}


def functions(code):
    """The number of lines of every function that has a body."""
    for found in FUNCTION.finditer(code):
        end = closing(code, found.start())
        if code[end - 1:end] == "}":
            yield code.count("\n", found.start(), end) + 1


def is_participle(name):
    """Whether the last word of a type's name is a participle, by its ending."""
    last = re.findall(r"[A-Z][a-z0-9]*", name)
    last = last[-1] if last else name
    return last not in NOUNS and (last in IRREGULAR or last.endswith("ed") or last.endswith("ing"))


def main():
    options = [word for word in sys.argv[1:] if word.startswith("--")]
    folders = [word for word in sys.argv[1:] if not word.startswith("--")]
    folder = Path(folders[0]) if folders else Path(__file__).resolve().parent.parent / "src"
    files = sources(folder)
    lengths, bodies, places, comments, filled = {}, [], {}, 0, 0
    for path, (text, code) in files.items():
        lengths[path] = text.count("\n")
        bodies.extend((lines, path) for lines in functions(code))
        for name in TYPE.findall(code):
            places.setdefault(name, []).append(str(path.relative_to(folder)))
        lines = [line.strip() for line in text.splitlines()]
        filled += sum(1 for line in lines if line)
        comments += sum(1 for line in lines if line.startswith("//"))
    types = sum(len(where) for where in places.values())
    shared = {name: where for name, where in places.items() if len(where) > 1}
    sharing = sum(len(where) for where in shared.values())
    participles = {name: where for name, where in places.items() if is_participle(name)}
    body_lines = [lines for lines, _ in bodies]
    print(f"files                        {len(files)}")
    print(f"lines of a file              median {statistics.median(lengths.values()):.0f}, max {max(lengths.values())}")
    print(f"lines of a function          median {statistics.median(body_lines):.0f}, max {max(body_lines)}")
    print(f"types                        {types}")
    print(f"types that share a name      {sharing} ({100 * sharing / types:.0f} %)")
    print(f"participles as type names    {sum(len(where) for where in participles.values())}")
    print(f"lines that are comments      {100 * comments / filled:.0f} %")
    if "--shared" in options:
        print()
        for name, where in sorted(shared.items()):
            print(f"{name}: {', '.join(where)}")
    if "--participles" in options:
        print()
        for name, where in sorted(participles.items()):
            print(f"{name}: {', '.join(where)}")
    if "--long" in options:
        print()
        for path, lines in sorted(lengths.items(), key=lambda item: -item[1])[:40]:
            print(f"{lines:5} {path.relative_to(folder)}")
        for lines, path in sorted(bodies, reverse=True, key=lambda item: item[0])[:10]:
            print(f"{lines:5} a function in {path.relative_to(folder)}")


if __name__ == "__main__":
    main()

"""Writes each TypeScript block of the documentation to a file of its own, for the compiler (js/blocks); prints how many."""

import pathlib
import re
import sys
import textwrap

# In lists, blocks are indented.
BLOCK = re.compile(r"^(?P<indent> *)```ts\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)


def main():
    """Writes all of them. The lines of a file are those of its page, so that errors name them."""
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.ts"):
        old.unlink()
    count = 0
    for pattern in ("README.md", "js/README.md", "docs/*.md", "docs/recipes/*.md"):
        for page in sorted(pathlib.Path().glob(pattern)):
            text = page.read_text(encoding="utf-8")
            for match in BLOCK.finditer(text):
                line = text[: match.start("text")].count("\n")
                name = f"{'-'.join(page.with_suffix('').parts)}-{line + 1}.ts"
                (folder / name).write_text("\n" * line + textwrap.dedent(match["text"]) + "export {};\n", encoding="utf-8")
                count += 1
    print(f"{count} blocks of TypeScript")


if __name__ == "__main__":
    main()

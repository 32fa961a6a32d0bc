#!/usr/bin/env python3
"""Takes the code that `tollgate demo` prints to an answer, as a reader does.

    scripts/first_answer.py BINARY swift    the steps of docs/first-answer.md; with Swift in the folder of swift-check.sh, which starts this
    scripts/first_answer.py BINARY node     with the npm package as it would be published; started by js-check.sh

What differs from what a reader of the page types: the server is there already, its port is a free one, and of the repository
only what SwiftPM reads is copied. The lines that a reader copies from the demo are copied from the demo."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time

from docs import blocks
from rig import HERE, end_on_sigterm, free_port, process, wait_for

ROOT = os.path.dirname(HERE)
PAGE = "docs/first-answer.md"


def steps():
    """The page's commands from its second step on."""
    begin = 1 + open(os.path.join(ROOT, PAGE), encoding="utf-8").read().split("## 2. ")[0].count("\n")
    return [text for kind, number, text in blocks(PAGE) if kind == "sh" and number > begin]


def code_of(said, begin, end):
    """The code that the demo printed between two of its lines."""
    return textwrap.dedent(said.partition(f"{begin}:\n\n")[2].partition(f"\n{end}")[0])


def check_usage(said):
    """Two requests were charged, by the demo's own line that asks for it, after the one that sets the token."""
    token, curl = re.search(r"export TOKEN=\S+", said)[0], re.search(r"curl \S+/api/usage .*", said)[0]
    usage = subprocess.run(["bash", "-c", f"{token}\n{curl}"], capture_output=True, text=True, timeout=60, check=True)
    if json.loads(usage.stdout)["rows"][0]["requests"] != 2:
        sys.exit(f"two requests were made, and the ledger says {usage.stdout}")


def swift(said, place):
    """The page's steps, in the folder with Swift."""
    os.makedirs(os.path.join(place, "tollgate"))
    shutil.copy(os.path.join(ROOT, "Package.swift"), os.path.join(place, "tollgate"))
    shutil.copytree(os.path.join(ROOT, "swift"), os.path.join(place, "tollgate", "swift"))
    first, run = steps()
    with open(os.path.join(place, "main.swift"), "w", encoding="utf-8") as file:
        file.write(code_of(said, "in Swift (docs/first-answer.md)", "and in TypeScript"))
    script = f"set -eu\ncd {os.path.relpath(place, ROOT)}\n{first}cp ../main.swift Sources/hello/main.swift\n{run}"
    return [os.path.join(HERE, "swift-check.sh"), "--inside", script]


def node(said, place):
    """An empty folder, the package as it would be published, and the demo's code. It has no types in it, so Node runs it."""
    os.makedirs(place)
    with open(os.path.join(place, "hello.mjs"), "w", encoding="utf-8") as file:
        file.write(code_of(said, "and in TypeScript (js/README.md)", "The operator's page"))
    script = f"set -eu\ncd {place}\nnpm pack --silent {ROOT}/js\nnpm install --silent --no-audit --no-fund ./tollgate-client-*.tgz\nnode hello.mjs"
    return ["bash", "-c", script]


def main():
    """Takes the steps; says how long they took."""
    end_on_sigterm()
    binary, way = os.path.abspath(sys.argv[1]), {"swift": swift, "node": node}[sys.argv[2]]
    place = os.path.join(ROOT, "target", f"first-answer-{sys.argv[2]}")
    shutil.rmtree(place, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="tollgate-first-answer-") as folder, open(os.path.join(folder, "said"), "w", encoding="utf-8") as out:
        command = [binary, "demo", "--port", str(free_port())]
        with process(command, cwd=folder, env={"PATH": os.environ["PATH"]}, stdout=out, stderr=subprocess.STDOUT):
            said = wait_for("the demo", 60, lambda: told(out.name))
            begun = time.monotonic()
            done = subprocess.run(way(said, place), cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
            took = time.monotonic() - begun
            if done.returncode != 0 or "You said: Hello!" not in "".join(done.stdout.splitlines()):
                sys.exit(f"{sys.argv[2]}: the demo's code does not lead to an answer:\n{done.stdout}\n{done.stderr}")
            check_usage(said)
    print(f"{sys.argv[2]}: from the demo's code to the answer in {took:.0f} s")
    return 0


def told(name):
    """What the demo said, once that is all."""
    with open(name, encoding="utf-8") as file:
        text = file.read()
    return text if "Ctrl-C stops" in text else None


if __name__ == "__main__":
    sys.exit(main())

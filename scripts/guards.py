#!/usr/bin/env python3
"""Takes each guard of guards.toml out, one at a time, and sees a test go red.

    scripts/guards.py [--only WORD]… [--target DIR]

Works in a copy of the sources (git's files as they stand), never in the sources themselves. A guard whose text is not
there any more, whose change does not compile, or whose tests stay green fails the run: a test that can't fail is a defect.
"""
import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Of one guard, with the build.
TIMEOUT_S = 900


def copy_to(place):
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout.decode()
    for name in filter(None, names.split("\0")):
        to = place / name
        to.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copy2(ROOT / name, to)


def cargo(place, target, words):
    env = os.environ | {"CARGO_TARGET_DIR": str(target), "CARGO_TERM_COLOR": "never"}
    return subprocess.run(
        ["cargo", *words], cwd=place, env=env, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S
    )


def changed(text, guard):
    for find, put in [(guard["find"], guard["put"]), *guard.get("also", [])]:
        if text.count(find) != 1:
            raise LookupError(f"`{find.strip()[:60]}` is in {guard['file']} {text.count(find)} times, not once")
        text = text.replace(find, put)
    return text


def verdict_of_script(place, target, test):
    """The same for a check of a script that is given the binary: `script name of the check`, told with ✗ when it fails."""
    script, check = test.split(" ", 1)
    try:
        built = cargo(place, target, ["build", "--locked", "--bin", "tollgate"])
        if built.returncode != 0:
            return "does not compile without it:\n" + built.stderr[-1500:]
        binary = target / "debug" / "tollgate"
        done = subprocess.run(
            [script, binary], cwd=place, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return f"did not end in {TIMEOUT_S} s: nothing is known"
    told = done.stdout.splitlines()
    if f"✗ {check}" in told:
        return None
    return f"stays green: {test}" if f"✓ {check}" in told else f"{script} did not come to `{check}`:\n" + done.stderr[-1500:]


def verdict(place, target, guard):
    """None when a test went red, else what is wrong."""
    file = place / guard["file"]
    if not file.exists():
        return f"there is no file {guard['file']}"
    before = file.read_text()
    try:
        file.write_text(changed(before, guard))
        if guard["test"].startswith("scripts/"):
            return verdict_of_script(place, target, guard["test"])
        kind, names = guard["test"].split()[:2], guard["test"].split()[2:]
        if guard["test"].startswith("--lib"):
            kind, names = ["--lib"], guard["test"].split()[1:]
        try:
            built = cargo(place, target, ["test", "--locked", "-p", "tollgate", "--no-run", *kind])
        except subprocess.TimeoutExpired:
            return f"was not built in {TIMEOUT_S} s: nothing is known"
        if built.returncode != 0:
            return "does not compile without it:\n" + built.stderr[-1500:]
        done = cargo(place, target, ["test", "--locked", "-p", "tollgate", *kind, "--", *names])
        if "running 0 tests" in done.stdout:
            return f"no test is named {names}"
        return None if done.returncode != 0 else f"stays green: {guard['test']}"
    except LookupError as error:
        return str(error)
    except subprocess.TimeoutExpired:
        # The test hangs without it, which is red enough; a build that is slow is not (above).
        return None
    finally:
        file.write_text(before)


def main():
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--only", action="append", help="guards whose name or file has this word (or one of these: may be given again)")
    words.add_argument("--target", help="where compiled things are kept (default: a temporary folder)")
    asked = words.parse_args()
    guards = tomllib.loads((ROOT / "scripts" / "guards.toml").read_text())["guard"]
    of = asked.only or [""]
    guards = [guard for guard in guards if any(word in guard["name"] or word in guard["file"] for word in of)]
    failed = 0
    with tempfile.TemporaryDirectory(prefix="guards-") as folder:
        place = pathlib.Path(folder) / "sources"
        place.mkdir()
        copy_to(place)
        # What scripts have installed for themselves lies there.
        (ROOT / "target").mkdir(exist_ok=True)
        (place / "target").symlink_to(ROOT / "target")
        target = pathlib.Path(asked.target) if asked.target else pathlib.Path(folder) / "target"
        for number, guard in enumerate(guards, 1):
            begun = time.monotonic()
            wrong = verdict(place, target.resolve(), guard)
            failed += wrong is not None
            told = "red, as it should be" if wrong is None else f"✗ {wrong}"
            print(f"[{number}/{len(guards)}] {guard['name']}: {told} ({time.monotonic() - begun:.0f} s)", flush=True)
    print(f"{len(guards) - failed} of {len(guards)} guards are seen to be there by a test")
    sys.exit(1 if failed or not guards else 0)


if __name__ == "__main__":
    main()

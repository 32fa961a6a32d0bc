#!/usr/bin/env python3
"""Runs every command of README.md, docs/ and the packages' pages against the binary.

    scripts/docs.py target/debug/tollgate [PAGE]

Each page is run from top to bottom by bash, in a directory of its own, with a stand-in for OpenAI. A ```sh block is run,
unless it begins with `# not tried here: WHY` or stands in UNTRIED below, with who tries it. Each ```toml block is checked
by `tollgate check`, each ```json block must be JSON, each ```python block must compile. Lines `<!-- before: COMMAND -->` and `<!-- after: COMMAND -->` are
run too: what the reader has and the page does not show, and what must be so then. Links to files must lead somewhere, and
docs/errors.md must know every code of src/error.rs, in its table and in its Swift.

What differs from what a reader types: port 8080 and 9090 are free ones, `tollgate serve` goes on in the background, and
`cargo build` does nothing, since the binary is there."""

import contextlib
import glob
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

from rig import HERE, Checks, fake_openai, free_port, process, wait_for

ROOT = os.path.dirname(HERE)

# (page, how the block begins): who tries it, or why nobody can here.
UNTRIED = {
    ("README.md", "cargo run --release -- demo"): "both are steps of .ci/run",
    ("README.md", "SUPABASE_URL=https://your-project"): "the lines of a file, which docs/quick-start.md writes",
    ("README.md", "docker build -t tollgate ."): "scripts/docker-try.sh builds the image and runs the demo in it",
    ("README.md", "docker compose run --rm tollgate check"): "scripts/docker-try.sh, as docs/docker.md has it",
    ("docs/first-answer.md", "cd tollgate"): "the build of every check",
    ("docs/first-answer.md", "./target/debug/tollgate demo"): "scripts/first_answer.py, started by scripts/swift-check.sh",
    ("docs/first-answer.md", "mkdir -p hello"): "scripts/first_answer.py",
    ("docs/first-answer.md", "swift run"): "scripts/first_answer.py",
    ("docs/supabase.md", "SUPABASE_URL=https://<ref>"): "tests/it/first_steps.rs takes the ten steps",
    ("docs/supabase.md", 'TOKEN=$(curl -s "https://<ref>'): "only Supabase itself gives such a token",
    ("docs/supabase.md", "curl localhost:8080/api/chat"): "tests/it/first_steps.rs takes the ten steps",
    ("docs/supabase.md", "tollgate ledger export ledger.jsonl"): "tests/it/moving.rs carries ledgers both ways",
}
NOT_TRIED = ("# not tried here: ", "# tried by scripts/docker-try.sh: ")

SERVE = r"""#!/bin/bash
# `serve` goes on in the background, from ready to the end of the page.
TOLLGATE=@binary@
[[ " $* " == *" serve "* ]] || exec "$TOLLGATE" "$@"
"$TOLLGATE" "$@" >>"$STATE/serve.log" 2>&1 </dev/null &
echo $! >"$PIDFILE"
for _ in {1..300}; do
  "$TOLLGATE" health >/dev/null 2>&1 && exit 0
  kill -0 "$(cat "$PIDFILE")" 2>/dev/null || break
  sleep 0.1
done
tail -n 5 "$STATE/serve.log" >&2
exit 1
"""


def blocks(page):
    """(kind, first line's number, text): the fenced blocks and the hidden commands, in their order."""
    fence, text, found = None, [], []
    for number, line in enumerate(open(os.path.join(ROOT, page), encoding="utf-8").read().splitlines(), 1):
        bare = line.strip()
        if fence is not None:
            if bare == "```":
                found.append((fence[0], fence[1], "\n".join(text) + "\n"))
                fence, text = None, []
            else:
                text.append(line[min(fence[2], len(line) - len(line.lstrip())) :])
        elif bare.startswith("```"):
            fence = (bare[3:], number + 1, len(line) - len(line.lstrip()))
        elif hidden := re.fullmatch(r"<!-- (before|after): (.*) -->", bare):
            found.append(("hidden", number, hidden[2] + "\n"))
    return found


class Page:
    """One page, run."""

    def __init__(self, name, binary, checks, postgres):
        self.name, self.binary, self.checks, self.postgres = name, binary, checks, postgres
        self.ports = {"8080": str(free_port()), "9090": str(free_port())}

    def here(self, text):
        """The text with our ports in place of those of the page."""
        for theirs, ours in self.ports.items():
            text = re.sub(rf"(localhost|127\.0\.0\.1):{theirs}\b", rf"127.0.0.1:{ours}", text)
        return text

    def script(self):
        """All commands of the page that are to be run, each told before it is."""
        lines, unused = [], {begins for page, begins in UNTRIED if page == self.name}
        for kind, number, text in blocks(self.name):
            if kind == "hidden" or kind == "sh" and not text.startswith(NOT_TRIED):
                listed = next((begins for begins in unused if text.startswith(begins)), None)
                if listed is not None:
                    unused.discard(listed)
                    continue
                lines += [f"echo '### {self.name}:{number}' >&2", self.here(text)]
            elif kind in ("bash", "shell", "console", "zsh"):
                self.checks.tell(f"{self.name}:{number}", f"write ```sh in place of ```{kind}, so that it is tried")
        for begins in unused:
            self.checks.tell(f"{self.name}: {begins}", "listed as not tried, and not there any more")
        return "\n".join(lines)

    def run(self):
        """Runs the commands; tells how it ended."""
        script = self.script()
        if not script:
            return
        with tempfile.TemporaryDirectory(prefix="tollgate-docs-") as folder:
            state = os.path.join(folder, "state")
            work = os.path.join(folder, "work")
            bin_ = os.path.join(folder, "bin")
            for each in (state, bin_, os.path.join(work, "target", "release")):
                os.makedirs(each)
            self.lay_out(work, bin_)
            key = "sk-docs"
            with fake_openai(state, key) as (upstream, _log):
                env = {
                    "PATH": bin_ + ":" + os.environ["PATH"],
                    "HOME": work,
                    "STATE": state,
                    "PIDFILE": os.path.join(state, "pid"),
                    "JWT_SECRET": "only-for-these-pages-" + "0123456789" * 4,
                    "OPENAI_API_KEY": key,
                    "OPENAI_BASE_URL": upstream,
                    "TOLLGATE_ADMIN_TOKEN": "docs-operator-token-0123456789",
                    "TOLLGATE_SERVER__BIND": f"127.0.0.1:{self.ports['8080']}",
                    "TOLLGATE_SERVER__ADMIN_BIND": f"127.0.0.1:{self.ports['9090']}",
                    **self.postgres(script),
                }
                user = ["token", "--user", "0d3e0d3e-0d3e-4d3e-8d3e-0d3e0d3e0d3e"]
                env["TOKEN"] = subprocess.run(
                    [self.binary, *user], cwd=work, env=env, check=True, capture_output=True, text=True
                ).stdout.strip()
                words = ["bash", "-euo", "pipefail", "-c", script]
                done = subprocess.run(words, cwd=work, env=env, capture_output=True, text=True, timeout=240)
                with contextlib.suppress(OSError, ValueError), open(env["PIDFILE"], encoding="utf-8") as file:
                    pid = int(file.read())
                    os.kill(pid, 15)
                    wait_for("the server to stop", 60, lambda: not os.path.exists(f"/proc/{pid}") or zombie(pid))
        places = re.findall(r"^### (.*)$", done.stderr, re.M)
        last = done.stderr.rpartition("### ")[2]
        error = None if done.returncode == 0 else f"ended with {done.returncode} at {last}\n{done.stdout[-1500:]}"
        self.checks.tell(f"{self.name}: {len(places)} blocks", error)

    def lay_out(self, work, bin_):
        """What lies in a clone of the repository, and the commands that are not what they seem."""
        for name, text in (("tollgate", SERVE.replace("@binary@", shlex.quote(self.binary))), ("cargo", '#!/bin/bash\n[[ $1 == build ]]\n')):
            path = os.path.join(bin_, name)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(path, 0o755)
        os.symlink(os.path.join(bin_, "tollgate"), os.path.join(work, "target", "release", "tollgate"))
        for name in ("bench", "deploy", "scripts", "docs"):
            os.symlink(os.path.join(ROOT, name), os.path.join(work, name))

    def look(self):
        """What can be seen without running anything."""
        for kind, number, text in blocks(self.name):
            where = f"{self.name}:{number} ({kind})"
            if kind == "json":
                self.checks.run(where, lambda text=text: json.loads(text.replace("…", "x")))
            elif kind == "python":
                self.checks.run(where, lambda text=text, where=where: compile(text, where, "exec"))
            elif kind == "toml":
                self.checks.run(where, lambda text=text: self.toml(text))
        folder = os.path.dirname(os.path.join(ROOT, self.name))
        text = open(os.path.join(ROOT, self.name), encoding="utf-8").read()
        for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
            if "://" not in link and not os.path.exists(os.path.join(folder, link)):
                self.checks.tell(f"{self.name}: {link}", "leads nowhere")

    def toml(self, text):
        """A file of settings that means something, on top of what the quick start needs."""
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "tollgate.toml"), "w", encoding="utf-8") as file:
                file.write(text)
            env = {"PATH": os.environ["PATH"], "JWT_SECRET": "x" * 40 + "0123456789", "OPENAI_API_KEY": "sk-docs", "ANTHROPIC_API_KEY": "sk-docs",
                   "GEMINI_API_KEY": "sk-docs", "VOICES_API_KEY": "sk-docs"}
            done = subprocess.run([self.binary, "check"], cwd=folder, env=env, capture_output=True, text=True)
            if done.returncode != 0:
                raise AssertionError(done.stderr)


def zombie(pid):
    """Ended, and nobody has asked how."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return file.read().rpartition(")")[2].split()[0] == "Z"


@contextlib.contextmanager
def postgres():
    """A function that gives a page two empty databases, if it speaks of them. The server is started for the first."""
    with contextlib.ExitStack() as stack:
        started = []

        def databases(script):
            if "LEDGER_URL" not in script:
                return {}
            if not started:
                started.append(stack.enter_context(server()))
            folder, port, as_owner = started[0]
            urls = {}
            for number, name in enumerate(("LEDGER_URL", "OTHER_URL")):
                database = f"docs{number}"
                subprocess.run([*as_owner, "createdb", "-h", folder, "-p", port, database], check=True)
                urls[name] = f"postgres://postgres@127.0.0.1:{port}/{database}?sslmode=disable"
            return urls

        yield databases


@contextlib.contextmanager
def server():
    """A Postgres of our own, on a free port of loopback."""
    installed = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    if not installed and shutil.which("initdb") is None:
        sys.exit("docs/operating.md backs up a Postgres: apt-get install postgresql")
    place = installed[-1] + "/" if installed else ""
    as_owner = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="tollgate-docs-pg-") as folder:
        if as_owner:
            shutil.chown(folder, "postgres")
        data, port = os.path.join(folder, "data"), str(free_port())
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([*as_owner, place + "initdb", "-D", data, "-U", "postgres", "-A", "trust"], check=True, **quiet)
        words = [place + "postgres", "-D", data, "-p", port, "-k", folder, "-c", "listen_addresses=127.0.0.1"]
        with process([*as_owner, *words], **quiet):
            ready = [place + "pg_isready", "-h", "127.0.0.1", "-p", port]
            wait_for("Postgres", 30, lambda: subprocess.run(ready, **quiet).returncode == 0)
            yield folder, port, [*as_owner]


def codes():
    """Every code of src/error.rs must stand in docs/errors.md, in the table with its status and in the Swift."""
    source = open(os.path.join(ROOT, "src", "error.rs"), encoding="utf-8").read()
    known = re.findall(r'^    \w+ = "(\w+)", (\d+), "\w+";', source, re.M)
    if len(known) < 20:
        raise AssertionError(f"only {len(known)} codes were found in src/error.rs")
    page = open(os.path.join(ROOT, "docs", "errors.md"), encoding="utf-8").read()
    swift = "".join(text for kind, _, text in blocks("docs/errors.md") if kind == "swift")
    missing = [code for code, status in known if f"| `{code}` | {status} |" not in page]
    missing += [f"{code} (Swift)" for code, _ in known if f'"{code}"' not in swift]
    listed = re.findall(r"^\| `(\w+)` \| \d+ \|", page, re.M)
    missing += [f"{code}, which is no code any more" for code in listed if code not in dict(known)]
    if missing:
        raise AssertionError(f"docs/errors.md: {missing}")


def main():
    binary = os.path.abspath(sys.argv[1])
    patterns = ("docs/*.md", "docs/recipes/*.md", "swift/README.md", "js/README.md", "examples/*/*.md")
    found = [page for pattern in patterns for page in glob.glob(os.path.join(ROOT, pattern))]
    pages = ["README.md", *sorted(os.path.relpath(page, ROOT) for page in found)]
    checks = Checks()
    with postgres() as databases:
        for name in pages:
            if len(sys.argv) > 2 and name not in sys.argv[2:]:
                continue
            page = Page(name, binary, checks, databases)
            page.look()
            try:
                page.run()
            except Exception as error:  # noqa: BLE001 - any failure is a failed check, and the rest still run
                checks.tell(name, f"{type(error).__name__}: {error}")
    checks.run("docs/errors.md has every code", codes)
    for name in {page for page, _ in UNTRIED} - set(pages):
        checks.tell(name, "is listed in UNTRIED and not there")
    return checks.close()


if __name__ == "__main__":
    sys.exit(main())

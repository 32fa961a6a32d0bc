#!/usr/bin/env python3
"""Tries the blocks of docs/docker.md, and what the files for Docker promise, on the engine of docker-try.sh, which starts this.

The image is the one of deploy/prebuilt/Dockerfile around the binary that is given (--source builds ./Dockerfile too). The upstream
is fake_openai.py, nano is a stand-in that does what vi does: it puts a new file in the place of the old one.

    --users N    how many users the ledger has that is migrated on a read-only root (default 20000)
    --source     build the image from source as well: ten minutes
    --only WORD  only the checks whose name has this word (and what every run needs)"""

import argparse
import contextlib
import http.client
import json
import os
import re
import secrets
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import urllib.error
import urllib.request

from rig import HERE, Checks, end_on_sigterm, expect, free_port, process, wait_for

ROOT = os.path.dirname(HERE)
PAGE = os.path.join(ROOT, "docs", "docker.md")
MARK = "# tried by scripts/docker-try.sh: "
LINES_MAX = 5
ALICE = "7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11"
ADMIN_TOKEN = "docker-operator-token-0123456789"
KEY = "sk-docker"
# A `$` and a `#`, which others take for the beginning of something.
SECRETS = [f"{secrets.token_urlsafe(24)}$HOME#{secrets.token_urlsafe(24)}" for _ in range(3)]
# For commands that need one and use it for nothing.
ANY = f"-e JWT_SECRET={secrets.token_urlsafe(32)} -e OPENAI_API_KEY=x"
PLAN = '[plans.free]\ndefault = true\nmodels = ["gpt-4o-mini"]\nmax_output_tokens = 4000\nconcurrent_requests = 20\nlimits = [{ per = "day", requests = %d }]\n'

NANO = """#!/bin/sh
# What most editors do: a new file, and then its name.
cp "$1" "$1.new" 2>/dev/null || : > "$1.new"
eval "$NANO_DOES" < "$1.new" > "$1.newer" && rm "$1.new" && mv "$1.newer" "$1"
"""
DOCKER = """#!/bin/sh
exec %s "$@"
"""
SCP = """#!/bin/sh
for last; do :; done
for file; do [ "$file" = "$last" ] || cp "$file" "$OTHER/"; done
"""


def recipes():
    """The blocks of the page by name."""
    text = open(PAGE, encoding="utf-8").read()
    found = dict(re.findall(rf"```sh\n{MARK}([\w-]+)\n(.*?)```", text, re.S))
    for name, block in found.items():
        expect(f"lines of {name}, at most {LINES_MAX}", len(block.strip().splitlines()) <= LINES_MAX, True)
    return found


class Shore:
    """A folder with the files that are shipped, and how its recipes are run."""

    def __init__(self, scratch, name):
        self.scratch, self.folder = scratch, os.path.join(scratch, name)
        os.makedirs(self.folder)
        # What a clone has of Docker's files. (The image is built: nothing of the sources is looked at.)
        for path in ("docker-compose.yml", ".env.example"):
            shutil.copy(os.path.join(ROOT, path), self.folder)
        shutil.copytree(os.path.join(ROOT, "deploy"), os.path.join(self.folder, "deploy"))
        self.port, self.admin = free_port(), free_port()

    def bash(self, script, fails=False, seconds=180, folder=None, **env):
        """Runs lines as a reader types them; what they printed."""
        env = {**os.environ, "PATH": os.path.join(self.scratch, "bin") + ":" + os.environ["PATH"], **env}
        words = ["bash", "-euo", "pipefail", "-c", script]
        done = subprocess.run(words, cwd=folder or self.folder, env=env, capture_output=True, text=True, timeout=seconds)
        said = done.stdout + done.stderr
        if (done.returncode != 0) != fails:
            raise AssertionError(f"{script.strip()}\nended with {done.returncode}:\n{said[-3000:]}")
        return said

    def write(self, name, text):
        """Puts a new file in the place of the old one."""
        path = os.path.join(self.folder, name)
        with open(path + ".new", "w", encoding="utf-8") as file:
            file.write(text)
        os.rename(path + ".new", path)

    def dot_env(self, secret, *more):
        """The quick start's variables."""
        lines = [f"JWT_SECRET={secret}", f"OPENAI_API_KEY={KEY}", f"OPENAI_BASE_URL={self.upstream}", f"PORT={self.port}"]
        lines += [f"ADMIN_PORT={self.admin}", f"TOLLGATE_ADMIN_TOKEN={ADMIN_TOKEN}", *more]
        self.write(".env", "\n".join(lines) + "\n")

    def tollgate(self, *words, **how):
        """A command in the container that runs."""
        return self.bash("docker compose exec -T tollgate tollgate " + " ".join(words), **how)

    def token(self, secret):
        """A token of Alice's, signed with this secret by the image."""
        said = self.bash(
            f"docker run --rm --network none -e JWT_SECRET -e OPENAI_API_KEY=x tollgate token --user {ALICE} --expires 6h",
            JWT_SECRET=secret,
        )
        return re.search(r"^ey\S+$", said, re.M)[0]

    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def id(self):
        """The container's id."""
        return self.bash("docker compose ps -aq tollgate").strip()

    def health(self):
        return self.bash("docker inspect --format '{{.State.Health.Status}}' " + self.id()).strip()


def status(url, token=None, body=None, context=None, seconds=60):
    """The status of an answer, and its text."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data, {**headers, "Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=seconds, context=context) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()
    except (OSError, urllib.error.URLError, http.client.HTTPException) as broken:
        return 0, str(broken)


def chat(words, pace, stream=True):
    return {"messages": [{"role": "user", "content": f"[[words={words}]] [[pace={pace}]]"}], "stream": stream}


class Stream(threading.Thread):
    """An open stream, read to its end in the background."""

    def __init__(self, url, token, words, pace, context=None):
        super().__init__(daemon=True)
        self.arguments = (url + "/api/chat", token, chat(words, pace), context, 120)
        self.begun = time.monotonic()
        self.start()
        time.sleep(1)

    def run(self):
        self.status, self.text = status(*self.arguments)

    def end(self):
        """All that came, once it has ended."""
        self.join(120)
        return self.text


class Load:
    """Four callers who ask one after another until it is enough."""

    def __init__(self, url, token, context=None):
        self.answers, self.longest, self.stopped = [], 0.0, threading.Event()
        self.arguments = (url + "/api/chat", token, chat(3, 5, stream=False), context, 90)
        self.threads = [threading.Thread(target=self.call, daemon=True) for _ in range(4)]
        for thread in self.threads:
            thread.start()

    def call(self):
        while not self.stopped.is_set():
            begun = time.monotonic()
            self.answers.append(status(*self.arguments))
            self.longest = max(self.longest, time.monotonic() - begun)

    def end(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join(100)
        return [answer for answer in self.answers if answer[0] != 200]


class Trial:
    """All checks, in an order in which each finds what those before it left."""

    def __init__(self, asked, scratch, checks):
        self.asked, self.scratch, self.checks = asked, scratch, checks
        self.recipes, self.tried, self.measured = recipes(), set(), []
        self.home = Shore(scratch, "tollgate")

    def recipe(self, name, shore=None, **how):
        """Runs a block of the page."""
        self.tried.add(name)
        return (shore or self.home).bash(self.recipes[name], **how)

    def measure(self, what, value):
        self.measured.append((what, value))
        print(f"  {what}: {value}", flush=True)

    def image(self):
        begun = time.monotonic()
        self.home.bash(f"{HERE}/docker-image.sh {self.asked.binary}")
        self.measure("the image around a binary that is there", f"{time.monotonic() - begun:.1f} s")
        size = int(self.home.bash("docker image inspect --format '{{.Size}}' tollgate"))
        binary = os.path.getsize(self.asked.binary)
        self.measure("image", f"{size / 1e6:.1f} MB, of it the binary {binary / 1e6:.1f} MB")
        said = self.home.bash("docker run --rm --entrypoint /bin/sh tollgate -c true", fails=True)
        expect("there is no shell", "no such file" in said, True)

    def archive(self):
        """An unpacked release is a folder that Compose starts from, with nothing compiled."""
        self.home.bash(f"{HERE}/release-archive.sh {self.asked.binary} tollgate-tried {self.scratch}/dist")
        self.home.bash("sha256sum --check tollgate-tried.sha256 && tar -xzf tollgate-tried.tar.gz", folder=f"{self.scratch}/dist")
        begun = time.monotonic()
        self.home.bash("IMAGE=of-archive docker compose build && docker run --rm of-archive --version", folder=f"{self.scratch}/dist/tollgate-tried")
        self.measure("the image from a release's archive", f"{time.monotonic() - begun:.1f} s")
        self.home.bash("docker run --rm --read-only --network none of-archive demo --once")

    def source(self):
        begun = time.monotonic()
        self.home.bash(f"docker build -t from-source {ROOT}", seconds=3600)
        took = time.monotonic() - begun
        size = int(self.home.bash("docker image inspect --format '{{.Size}}' from-source"))
        self.measure("the image from source", f"{took:.0f} s, {size / 1e6:.1f} MB")
        self.home.bash("docker run --rm --read-only --network none from-source demo --once")

    def demo(self):
        name = "tollgate-demo-tried"
        script = self.recipes["look"].replace("8088", str(free_port())).replace("--rm", f"--rm --name {name}")
        self.tried.add("look")
        with subprocess.Popen(["bash", "-c", script], cwd=self.home.folder, env={**os.environ, "PATH": os.path.join(self.scratch, "bin") + ":" + os.environ["PATH"]},
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
            said = []
            threading.Thread(target=lambda: said.extend(child.stdout), daemon=True).start()
            try:
                wait_for("the demo's curl lines", 30, lambda: "curl" in "".join(said))
            finally:
                subprocess.run([os.environ["DOCKER"], "stop", "-t", "5", name], capture_output=True, check=False)

    def as_shipped(self):
        """`.env.example` as it is leads to one clear sentence, and to no container that is said to be well."""
        self.tried.add("first")
        lines = [line for line in self.recipes["first"].splitlines() if "doctor" not in line]
        said = self.home.bash("\n".join(lines[:2]), fails=True)
        expect(f"the setting is named: {said}", "OPENAI_API_KEY" in said or "SUPABASE_URL" in said, True)
        begun = time.monotonic()
        self.home.bash(f"PORT={self.home.port} ADMIN_PORT={self.home.admin} " + lines[2], fails=True)
        self.measure("`up -d --wait` on an .env that is not filled in fails after", f"{time.monotonic() - begun:.1f} s")
        self.home.bash("docker compose down")

    def first(self):
        self.home.dot_env(SECRETS[0])
        self.home.write("tollgate.toml", PLAN % 100000)
        lines = [line for line in self.recipes["first"].splitlines()[1:] if "doctor" not in line]
        begun = time.monotonic()
        self.home.bash("\n".join(lines))
        self.measure("`check` and `up -d --wait`, to a healthy container", f"{time.monotonic() - begun:.1f} s")
        expect("doctor's upstream", "✓ upstream openai" in self.home.bash("docker compose run --rm tollgate doctor || true"), True)
        self.token = self.home.token(SECRETS[0])
        answer = status(self.home.url() + "/api/chat", self.token, chat(3, 5, stream=False))
        expect(f"an answer, by a secret with $ and #: {answer}", answer[0], 200)
        memory = self.home.bash("docker stats --no-stream --format '{{.MemUsage}}' " + self.home.id()).strip()
        self.measure("memory, idle", memory)

    def hardened(self):
        facts = json.loads(self.home.bash("docker inspect " + self.home.id()))[0]
        host = facts["HostConfig"]
        expect("read-only, no capability", (host["ReadonlyRootfs"], host["CapDrop"]), (True, ["ALL"]))
        expect("user", facts["Config"]["User"], "65532")
        expect("no secret in `docker inspect`", SECRETS[0] in json.dumps(facts), False)
        ports = host["PortBindings"]
        expect("on this machine only", {each["HostIp"] for port in ports.values() for each in port}, {"127.0.0.1"})
        expect("the volume's name", [m["Name"] for m in facts["Mounts"] if m["Type"] == "volume"], ["tollgate-ledger"])

    def operators_page(self):
        admin = f"http://127.0.0.1:{self.home.admin}"
        expect("the page", status(admin + "/")[0], 200)
        expect("metrics without and with the token", (status(admin + "/metrics")[0], status(admin + "/metrics", ADMIN_TOKEN)[0]), (401, 200))

    def rotate(self):
        new = self.home.token(SECRETS[1])
        me = self.home.url() + "/api/me"
        expect("before", (status(me, self.token)[0], status(me, new)[0]), (200, 401))
        does = f"grep -v ^JWT_SECRET; printf '%s\\n' 'JWT_SECRET={SECRETS[1]}' 'JWT_SECRET_PREVIOUS={SECRETS[0]}'"
        begun = time.monotonic()
        said = self.recipe("rotate", NANO_DOES=does)
        wait_for("the new secret", 5, lambda: status(me, new)[0] == 200)
        self.measure("a rotated secret is in force after at most", f"{time.monotonic() - begun:.1f} s")
        expect("the old one too", status(me, self.token)[0], 200)
        self.home.bash("nano .env", NANO_DOES="grep -v ^JWT_SECRET_PREVIOUS")
        wait_for("the old secret is refused", 5, lambda: status(me, self.token)[0] == 401)
        self.token = new
        return said

    def plans(self):
        self.recipe("plans", NANO_DOES="sed s/100000/99999/")
        me = self.home.url() + "/api/me"
        wait_for("the new plan", 5, lambda: "99999" in status(me, self.token)[1])
        expect("a command sees it", "99999" in self.home.tollgate("user", "show", ALICE), True)

    def typo(self):
        """A typo in a file makes a healthy server neither ill nor deaf."""
        good = open(os.path.join(self.home.folder, "tollgate.toml"), encoding="utf-8").read()
        self.home.write("tollgate.toml", good + "[plans\n")
        time.sleep(20)
        expect("Docker's opinion", self.home.health(), "healthy")
        self.home.tollgate("pause")
        answer = status(self.home.url() + "/api/chat", self.token, chat(3, 5))
        expect(f"paused: {answer}", answer[0], 503)
        self.home.tollgate("resume")
        self.home.write("tollgate.toml", good)
        time.sleep(2)
        said = self.home.bash("docker compose logs --no-log-prefix tollgate")
        expect("health checks are not logged", "/health/ready" in said, False)

    def elsewhere(self):
        """Commands in a wrong folder say so, and make no ledger."""
        for words in (f"user block {ALICE}", f"user plan {ALICE} free", "pause", "resume", "prune"):
            run = f"docker compose exec -T -w /tollgate/data -e TOLLGATE_CONFIG= {ANY} tollgate tollgate {words}"
            said = self.home.bash(run, fails=True)
            expect(f"{words}: {said}", "no ledger" in said, True)
        found = self.home.bash("docker run --rm -v tollgate-ledger:/l:ro busybox ls /l").split()
        expect("folders in the volume", [name for name in found if not name.startswith("tollgate.db")], [])

    def unreadable(self):
        """Files that the container's user may not read or write are named, with the fix."""
        env = os.path.join(self.home.folder, ".env")
        os.chmod(env, 0o600)
        said = self.home.bash("docker compose run --rm tollgate check", fails=True)
        os.chmod(env, 0o644)
        expect(f"uid and fix: {said}", "uid 65532" in said and "chmod" in said, True)
        os.mkdir(os.path.join(self.home.folder, "data"))
        run = f"docker run --rm --read-only --network none {ANY} -v $PWD/data:/tollgate/data tollgate migrate"
        said = self.home.bash(run, fails=True)
        expect(f"chown: {said}", "chown 65532:65532" in said, True)
        self.home.bash("chown 65532:65532 data; " + run)

    def large(self):
        """A large ledger of an earlier version on a read-only root."""
        folder = os.path.join(self.scratch, "large")
        os.makedirs(folder)
        old_ledger(os.path.join(folder, "tollgate.db"), self.asked.users)
        os.chown(folder, 65532, 65532)
        os.chown(os.path.join(folder, "tollgate.db"), 65532, 65532)
        run = f"docker run --rm --read-only --network none -v {folder}:/tollgate/data {ANY} tollgate "
        for words in ("migrate", "usage --by day", "usage --by model", "user list --sort spend --top 5", "ledger backup data/copy.db"):
            begun = time.monotonic()
            self.home.bash(run + words, seconds=1200)
            self.measure(f"`{words}` of {self.asked.users} users on a read-only root", f"{time.monotonic() - begun:.1f} s")

    def backup_and_restore(self):
        before = self.home.tollgate("usage", "--requests", "--json")
        self.recipe("backup")
        answer = status(self.home.url() + "/api/chat", self.token, chat(3, 5, stream=False))
        expect(f"served on: {answer}", answer[0], 200)
        self.recipe("restore")
        expect("the ledger is as it was", self.home.tollgate("usage", "--requests", "--json"), before)

    def stop(self):
        """An open stream ends whole when the container is stopped."""
        stream = Stream(self.home.url(), self.token, 80, 100)
        begun = time.monotonic()
        self.home.bash("docker compose stop tollgate")
        self.measure("stop with a stream open that has 7 s to go", f"{time.monotonic() - begun:.1f} s, whole")
        expect(f"the end of {stream.end()[-300:]}", stream.text.rstrip().endswith("data: [DONE]"), True)
        self.home.bash("docker compose up -d --wait")
        begun = time.monotonic()
        self.home.bash("docker compose stop tollgate")
        self.measure("stop with nothing open", f"{time.monotonic() - begun:.1f} s")
        self.home.bash("docker compose up -d --wait")

    def stop_that_cuts(self):
        """A stream that outlasts `shutdown_grace` ends with an error event, and not with a cut, and is charged what it used."""
        settings = open(os.path.join(self.home.folder, "tollgate.toml"), encoding="utf-8").read()
        self.home.write("tollgate.toml", settings + '[server]\nshutdown_grace = "3s"\n')
        self.home.bash("docker compose restart tollgate && docker compose up -d --wait")
        stream = Stream(self.home.url(), self.token, 600, 100)
        begun = time.monotonic()
        self.home.bash("docker compose stop tollgate")
        took = time.monotonic() - begun
        # A body that is cut reads as no answer at all here.
        expect(f"an answer that ends: {stream.end()[-500:]}", stream.status, 200)
        *before, error = [json.loads(line.removeprefix("data: ")) for line in stream.text.splitlines() if line.startswith("data: {")]
        expect(f"the end of {stream.text[-500:]}", (error["error"]["code"], "[DONE]" in stream.text), ("overloaded", False))
        code = self.home.bash("docker inspect --format '{{.State.ExitCode}}' " + self.home.id()).strip()
        expect("exit", code, "0")
        self.home.write("tollgate.toml", settings)
        self.home.bash("docker compose up -d --wait")
        rows = [json.loads(line) for line in self.home.tollgate("usage", "--requests", "--json").splitlines() if line.startswith("{")]
        last = max(rows, key=lambda row: row["id"])
        expect(f"settled, for some of 600 words: {last}", last["state"] == "settled" and 0 < last["output_tokens"] < 600, True)
        self.measure("stop with `shutdown_grace` of 3 s and a stream that has 59 s to go", f"{took:.1f} s, {len(before)} events, an error event, and the end of the body")

    def dead_names(self):
        """A name server that says nothing keeps nobody from stopping."""
        run = "docker run -d --name deaf --dns 203.0.113.7 -e SUPABASE_URL=https://abcdefghijklmnopqrst.supabase.co -e OPENAI_API_KEY=x tollgate"
        self.home.bash(run)
        try:
            time.sleep(3)
            begun = time.monotonic()
            self.home.bash("docker stop -t 30 deaf")
            took = time.monotonic() - begun
            self.measure("stop while a name server says nothing", f"{took:.1f} s")
            expect("within 5 seconds", took < 5, True)
        finally:
            self.home.bash("docker rm -f deaf")

    def as_on_fly(self):
        """With the variables of fly.toml: both listeners, the operator's over IPv6, and the volume's full path."""
        with open(os.path.join(ROOT, "deploy/fly/fly.toml"), "rb") as file:
            said = tomllib.load(file)["env"]
        variables = " ".join(f"-e '{name}={value}'" for name, value in said.items())
        self.home.bash(f"docker run -d --name fly {variables} {ANY} -e TOLLGATE_ADMIN_TOKEN={ADMIN_TOKEN} tollgate")
        try:
            address = self.home.bash("docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' fly").strip()
            wait_for("the server", 15, lambda: status(f"http://{address}:8080/")[0] == 200)
            expect("the operator's listener", status(f"http://{address}:9090/metrics", ADMIN_TOKEN)[0], 200)
            listening = self.home.bash("cat /proc/$(docker inspect --format '{{.State.Pid}}' fly)/net/tcp6")
            # 9090 on all IPv6 addresses, listening.
            expect("it is IPv6", " 00000000000000000000000000000000:2382 " in listening, True)
            # A console begins in another folder.
            self.home.bash("docker exec -w / fly /usr/local/bin/tollgate usage")
        finally:
            self.home.bash("docker rm -f fly")

    def local_supabase(self):
        """A Supabase on the machine itself, by plain http."""
        folder = os.path.join(self.scratch, "supabase", "auth", "v1", ".well-known")
        os.makedirs(folder)
        with open(os.path.join(folder, "jwks.json"), "w", encoding="utf-8") as file:
            file.write('{"keys": []}')
        port = free_port()
        words = [sys.executable, "-m", "http.server", str(port), "--directory", os.path.join(self.scratch, "supabase")]
        with process(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            variables = f"-e SUPABASE_URL=http://host.docker.internal:{port} -e TOLLGATE_AUTH__ISSUER=http://127.0.0.1:54321/auth/v1"
            run = f"docker run --rm --add-host host.docker.internal:host-gateway {variables} -e OPENAI_API_KEY=x tollgate "
            self.home.bash(run + "check")
            said = self.home.bash(run + "doctor || true")
            jwks = [line for line in said.splitlines() if " jwks " in line]
            expect(f"the keys were fetched: {jwks}", bool(jwks) and "refused" not in jwks[0] and "no answer" not in jwks[0], True)
            expect("where there is no curl it says so", "There is no curl in this container" in said or "curl" not in said, True)

    def upgrade(self):
        script = self.recipes["upgrade"].replace("git pull ", ": ").replace("docker compose build ", ": ")
        self.tried.add("upgrade")
        self.home.bash(script)

    def move(self):
        """To another machine: another folder, and a volume that is not there yet."""
        before = self.home.tollgate("usage", "--requests", "--json")
        other = Shore(self.scratch, "another")
        self.recipe("move-away", OTHER=other.folder)
        self.home.bash("docker compose down --volumes")
        other.port, other.admin, other.upstream = self.home.port, self.home.admin, self.home.upstream
        self.home = other
        self.recipe("move-in")
        expect("the ledger is as it was", self.home.tollgate("usage", "--requests", "--json"), before)

    def caddy(self):
        """HTTPS; and a deployment under load refuses nobody and cuts no stream."""
        # A name that Caddy signs itself.
        self.tried.add("caddy")
        if not self.home.bash("docker image ls -q caddy:2").strip():
            return
        self.home.bash(self.recipes["caddy"].replace("api.example.com", "localhost"))
        self.home.bash("docker compose exec -T caddy caddy version")
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        url = "https://localhost"
        wait_for("HTTPS", 30, lambda: status(url + "/health/ready", context=context)[0] == 200)
        expect("the operator's page is not there", status(url + "/admin/overview", ADMIN_TOKEN, context=context)[0], 404)
        self.deploy(url, context)
        stream = Stream(url, self.token, 150, 100, context)
        begun = time.monotonic()
        self.home.bash("docker compose stop")
        self.measure("stop of both with a stream open that has 14 s to go", f"{time.monotonic() - begun:.1f} s, whole")
        expect(f"the end of {stream.end()[-300:]}", stream.text.rstrip().endswith("data: [DONE]"), True)
        self.home.bash("docker compose up -d --wait")

    def deploy(self, url, context):
        load = Load(url, self.token, context)
        stream = Stream(url, self.token, 100, 100, context)
        begun = time.monotonic()
        self.home.bash("docker compose up -d --wait --force-recreate --no-deps tollgate")
        took = time.monotonic() - begun
        expect(f"the end of {stream.end()[-300:]}", stream.text.rstrip().endswith("data: [DONE]"), True)
        time.sleep(2)
        failed = load.end()
        if failed:
            print(self.home.bash("docker compose logs --no-log-prefix caddy | grep -i error | tail -n 5"), flush=True)
        expect(f"failed of {len(load.answers)} requests: {failed[:3]}", len(failed), 0)
        self.measure(
            "a deployment under load with a 10 s stream open",
            f"{took:.1f} s; {len(load.answers)} requests, 0 failed, the longest waited {load.longest:.1f} s; the stream whole",
        )

    def postgres(self):
        """From SQLite to Postgres, with the sums that it had."""
        found = sorted(name for name in os.listdir("/usr/lib/postgresql")) if os.path.isdir("/usr/lib/postgresql") else []
        if not found:
            self.tried.add("postgres")
            print("NOT CHECKED: Docker: from SQLite to Postgres: there is no Postgres on this machine", flush=True)
            return
        before = sums(self.home.tollgate("usage", "--requests", "--json"))
        with postgres(self.scratch, f"/usr/lib/postgresql/{found[-1]}/bin") as port:
            script = self.recipes["postgres"].replace("postgres://user:password@host:5432/database", f"postgres://postgres@host.docker.internal:{port}/postgres")
            self.tried.add("postgres")
            self.home.bash(script)
            expect("sums", sums(self.home.tollgate("usage", "--requests", "--json")), before)
            answer = status(self.home.url() + "/api/chat", self.token, chat(3, 5, stream=False))
            expect(f"an answer: {answer}", answer[0], 200)
            self.home.bash("docker compose down")

    def old_volume(self):
        """The volume of an earlier version of the file is taken over."""
        run = f"docker run --rm --network none {ANY} -v %s:/tollgate/data tollgate "
        self.home.bash("docker compose down --volumes; " + run % "old_ledger" + "migrate; " + run % "old_ledger" + f"user plan {ALICE} free")
        self.recipe("old-volume")
        expect("the user's plan", "free" in self.home.bash(run % "tollgate-ledger" + f"user show {ALICE}"), True)

    def all(self):
        """Every check by its name."""
        checks = [self.image, self.archive, self.demo, self.as_shipped, self.first, self.hardened, self.operators_page, self.rotate, self.plans, self.typo]
        checks += [self.elsewhere, self.unreadable, self.large, self.backup_and_restore, self.stop, self.stop_that_cuts, self.dead_names, self.as_on_fly, self.local_supabase, self.upgrade]
        checks += [self.move, self.caddy, self.postgres, self.old_volume]
        if self.asked.source:
            checks.insert(1, self.source)
        needed = {"image", "first"}
        for check in checks:
            name = check.__name__
            if not self.asked.only or name in needed or self.asked.only in name:
                self.checks.run(f"{name.replace('_', ' ')}", check)
        if not self.asked.only:
            self.checks.run("every block of the page is tried", lambda: expect("blocks that nobody tried", set(self.recipes) - self.tried, set()))


def sums(lines):
    """Requests and what they cost, of the ledger's own rows."""
    rows = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
    return len(rows), sum(row["cost_micros"] for row in rows), sorted(row["id"] for row in rows)[:5]


def old_ledger(path, users):
    """A ledger as version 4 left it: ten requests, a day and a month of each of so many users."""
    import sqlite3

    db = sqlite3.connect(path)
    for name in ("0001_ledger", "0002_outbox", "0003_operator", "0004_checks"):
        db.executescript(open(os.path.join(ROOT, "migrations", name + ".sql"), encoding="utf-8").read())
    user = "printf('%08x-0000-4000-8000-%012x', n * 2654435761 % 4294967296, n)"
    numbers = f"with recursive n(n) as (select 1 union all select n + 1 from n where n < {users})"
    db.executescript(f"""
        {numbers}, r(r) as (values (1), (2), (3), (4), (5), (6), (7), (8), (9), (10))
        insert into requests (id, user_id, plan, endpoint, model, upstream, state, held_input_tokens, held_output_tokens, held_micros,
                              input_tokens, output_tokens, cost_micros, started_at, ended_at, owner)
        select printf('%012x-%012x', r * 1000, n), {user}, 'free', '/api/chat', 'gpt-4o-mini', 'openai', 'settled', 10, 10, 10,
               5, 5, 5, 1800000000000 + r * 3600000, 1800000000001 + r * 3600000, 'o' from n, r;
        {numbers}, w(per, length) as (values ('day', 86400000), ('month', 2592000000))
        insert into windows (user_id, ends_at, per, starts_at, requests_used, tokens_used, micros_used)
        select {user}, 1800000000000 + length, per, 1800000000000, 10, 100, 50 from n, w;
        pragma user_version = 4;""")
    db.close()


@contextlib.contextmanager
def postgres(scratch, programs):
    """A Postgres that containers reach; its port."""
    folder, port = os.path.join(scratch, "postgres"), free_port()
    os.makedirs(folder)
    for path in (folder, scratch):
        os.chmod(path, 0o755)
    shutil.chown(folder, "postgres")
    run = ["runuser", "-u", "postgres", "--"]
    subprocess.run([*run, f"{programs}/initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "postgres"], check=True, capture_output=True, cwd="/")
    with open(f"{folder}/data/pg_hba.conf", "a", encoding="utf-8") as file:
        file.write("host all all 0.0.0.0/0 trust\n")
    words = [*run, f"{programs}/postgres", "-D", f"{folder}/data", "-p", str(port), "-k", folder, "-c", "listen_addresses=0.0.0.0", "-c", "fsync=off"]
    with process(words, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        ready = [f"{programs}/pg_isready", "-h", "127.0.0.1", "-p", str(port)]
        wait_for("Postgres", 30, lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0)
        yield port


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("--users", type=int, default=20000)
    parser.add_argument("--source", action="store_true")
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    end_on_sigterm()
    checks = Checks()
    with tempfile.TemporaryDirectory(prefix="try-") as scratch:
        os.makedirs(os.path.join(scratch, "bin"))
        for name, text in (("nano", NANO), ("docker", DOCKER % os.environ["DOCKER"]), ("scp", SCP)):
            path = os.path.join(scratch, "bin", name)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(path, 0o755)
        trial = Trial(asked, scratch, checks)
        words = [sys.executable, os.path.join(HERE, "fake_openai.py"), "--bind", "0.0.0.0", "--key", KEY]
        with process(words, stdout=subprocess.PIPE, text=True) as upstream:
            port = upstream.stdout.readline().strip().rsplit(":", 1)[1].removesuffix("/v1")
            trial.home.upstream = f"http://host.docker.internal:{port}/v1"
            trial.all()
    return checks.close()


if __name__ == "__main__":
    sys.exit(main())

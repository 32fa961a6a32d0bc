"""What run.py measures with: processes on their core, their CPU and memory, the targets and how each is started.

Nothing but Python's standard library. Every process that is started here is ended here.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
WORK = os.path.join(ROOT, "target", "bench")
TOLLGATE = os.environ.get("TOLLGATE", os.path.join(ROOT, "target", "release", "tollgate"))
BENCH = os.environ.get("TOLLGATE_BENCH", os.path.join(ROOT, "target", "release", "tollgate-bench"))
TICKS = os.sysconf("SC_CLK_TCK")
PINNED = shutil.which("taskset") and len(os.sched_getaffinity(0)) >= 2

CONFIG = """
[server]
bind = "127.0.0.1:{port}"
log_format = "json"

[store]
url = "{store}"

[directory]
via = "none"

[proxy]
on_disconnect = "{on_disconnect}"

[ceiling]
cost_usd_per_day = "1000000"

[plans.bench]
default = true
models = {models}
max_output_tokens = 1024
concurrent_requests = 1000
limits = [{limits}]
"""
LIMITS = '{ per = "hour", requests = 10000000 }, { per = "day", tokens = 10000000000 }, { per = "month", cost_usd = "100000" }'


def say(text):
    """A line of progress."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


def free_port():
    """A port of loopback that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def on_core(core, command):
    """The command, on one core where there are two."""
    return ["taskset", "-c", str(core), *command] if PINNED else command


def tree(root):
    """A process and all below it."""
    children = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, ValueError):
            children.setdefault(int(stat(int(name))[1]), []).append(int(name))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def stat(pid):
    """The fields of /proc/PID/stat from the third on; a name in brackets may hold anything."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()


def cpu_seconds(root):
    """User and system time of a tree, children that have ended included."""
    total = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            total += sum(int(field) for field in stat(pid)[11:15])
    return total / TICKS


def memory_mb(root, field="VmRSS"):
    """Resident memory of a tree: VmRSS now, VmHWM at most (the sum of each one's own peak)."""
    total = 0
    for pid in tree(root):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="utf-8") as file:
            total += sum(int(line.split()[1]) for line in file if line.startswith(field + ":"))
    return total / 1024


def get(url, token=None, timeout=5):
    """A body, or `None` where there is no 200."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.read()
    except (urllib.error.URLError, OSError):
        return None


@contextlib.contextmanager
def process(command, **options):
    """A child that is ended, gently and then not, whatever happens."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, **options)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(40)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def end_on_sigterm():
    """Makes SIGTERM (of `timeout`, say) an exit that ends the children too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


class Upstream:
    """The fake upstream on core 1, and the tokens of its users."""

    def __init__(self, folder):
        self.folder = folder
        self.key = os.path.join(folder, "key.p8")
        self.url = None

    @contextlib.contextmanager
    def serve(self):
        """Serving; its address is in `url`."""
        command = on_core(1, [BENCH, "upstream", "--key", self.key])
        with process(command, stdout=subprocess.PIPE, text=True) as child:
            self.url = child.stdout.readline().strip()
            yield self

    def tokens(self, users, step=1, first=0):
        """A file of access tokens."""
        path = os.path.join(self.folder, f"tokens-{first}-{users}-{step}")
        if not os.path.exists(path):
            ask = ["--key", self.key, "--project", self.url, "--users", str(users), "--step", str(step), "--first", str(first)]
            with open(path, "w", encoding="utf-8") as file:
                subprocess.run([BENCH, "tokens", *ask], stdout=file, check=True)
        return path

    def served(self):
        """What it has served, to whom."""
        return json.loads(get(self.url + "/served", timeout=30))


def load_command(url, **options):
    """The loader on core 1. `stream=True` is --stream, `max_tokens=9` is --max-tokens 9."""
    command = [BENCH, "load", "--url", url]
    for name, value in options.items():
        if value is True:
            command.append("--" + name.replace("_", "-"))
        elif value is not None and value is not False:
            command += ["--" + name.replace("_", "-"), str(value)]
    return on_core(1, command)


def load(url, **options):
    """What became of the requests."""
    done = subprocess.run(load_command(url, **options), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"the loader failed: {done.stderr}")
    return json.loads(done.stdout)


def forget_file(path):
    """Has the kernel read a program from the disk again. Of one that was just built or copied, the kernel holds larger
    pieces, and a process that touches one maps all of it: two megabytes that are not the program's doing."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Target:
    """Something that is measured: `serve` makes `url` and `pid`."""

    name = "direct"
    path = "/v1/chat/completions"
    ready_path = "/"

    def __init__(self, folder, upstream):
        self.folder = os.path.join(folder, self.name.replace(" ", "-"))
        os.makedirs(self.folder, exist_ok=True)
        self.upstream = upstream
        self.url = self.pid = self.ready_ms = None
        self.port = None

    def missing(self):
        """Why it cannot be run here; `None` if it can."""
        return None

    def prepare(self):
        """What is done once, before it is started."""

    def command(self):
        """How it is started."""
        raise NotImplementedError

    def environment(self):
        """Its variables."""
        return {"PATH": os.environ["PATH"], "HOME": self.folder, "SUPABASE_URL": self.upstream.url,
                "OPENAI_API_KEY": "sk-bench", "OPENAI_BASE_URL": self.upstream.url + "/v1"}

    @contextlib.contextmanager
    def serve(self, core=0):
        """Serving, on its core."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.prepare()
        with open(os.path.join(self.folder, "log"), "a", encoding="utf-8") as log:
            command = on_core(core, self.command()) if core is not None else self.command()
            begun = time.monotonic()
            with process(command, cwd=self.folder, env=self.environment(), stdout=log, stderr=log) as child:
                self.pid = child.pid
                while not self.is_ready():
                    if child.poll() is not None or time.monotonic() - begun > 60:
                        raise SystemExit(f"{self.name} does not start: see {log.name}")
                    time.sleep(0.0005)
                self.ready_ms = (time.monotonic() - begun) * 1000
                yield self

    def is_ready(self):
        """Whether it answers with 200."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as s:
                s.sendall(f"GET {self.ready_path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
                return b" 200 " in s.recv(64)
        except OSError:
            return False

    def load(self, **options):
        """Sends requests to it."""
        return load(self.url + self.path, **options)


class Direct(Target):
    """The upstream itself: what the loader and the upstream take alone."""

    @contextlib.contextmanager
    def serve(self, core=0):
        self.url, self.pid = self.upstream.url, None
        yield self


class Nginx(Target):
    """`proxy_pass`, and nothing else."""

    name = "nginx"

    def missing(self):
        return None if self.binary() else "nginx is not installed (apt-get install nginx-light)"

    def binary(self):
        return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")

    def prepare(self):
        with open(os.path.join(HERE, "nginx.conf"), encoding="utf-8") as file:
            text = file.read()
        for name, value in {"port": self.port, "upstream": self.upstream.url.removeprefix("http://"), "folder": self.folder}.items():
            text = text.replace("{" + name + "}", str(value))
        if os.getuid() == 0:
            text = "user root;\n" + text
        with open(os.path.join(self.folder, "nginx.conf"), "w", encoding="utf-8") as file:
            file.write(text)

    def command(self):
        return [self.binary(), "-p", self.folder, "-c", os.path.join(self.folder, "nginx.conf")]


class Sketch(Target):
    """The Python sketch, in a virtual environment of its own."""

    name = "sketch"

    def missing(self):
        venv = os.path.join(WORK, "venv")
        self.python = os.path.join(venv, "bin", "python")
        wanted = os.path.join(HERE, "sketch", "requirements.txt")
        stamp = os.path.join(venv, "made")
        if not os.path.exists(stamp) or os.path.getmtime(stamp) < os.path.getmtime(wanted):
            say("making the sketch's virtual environment")
            for command in ([sys.executable, "-m", "venv", "--clear", venv],
                            [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", wanted]):
                if subprocess.run(command, check=False).returncode != 0:
                    return "its packages cannot be installed"
            with open(stamp, "w", encoding="utf-8"):
                pass
        return None

    def prepare(self):
        shutil.copy(os.path.join(HERE, "sketch", "main.py"), os.path.join(self.folder, "main.py"))

    def command(self):
        return [self.python, "-m", "uvicorn", "main:app", "--port", str(self.port), "--log-level", "warning"]


class Tollgate(Target):
    """Everything on: ES256 tokens, three limits and a ceiling, `synchronous=FULL`, logs to a file."""

    name = "tollgate"
    binary = TOLLGATE
    ready_path = "/health/ready"
    limits = LIMITS
    models = ["gpt-4o-mini", "gpt-4o"]
    on_disconnect = "drain"

    def missing(self):
        return None if os.path.exists(self.binary) else "it is not built (cargo build --release)"

    def store(self):
        """The ledger's address."""
        return "sqlite:ledger.db"

    def prepare(self):
        text = CONFIG.format(port=self.port, store=self.store(), limits=self.limits, on_disconnect=self.on_disconnect,
                             models=json.dumps(self.models))
        with open(os.path.join(self.folder, "tollgate.toml"), "w", encoding="utf-8") as file:
            file.write(text)

    def command(self):
        return [self.binary, "serve"]


class TollgateOnPostgres(Tollgate):
    """The same on a Postgres of its own."""

    name = "tollgate on postgres"

    def __init__(self, folder, upstream, postgres):
        super().__init__(folder, upstream)
        self.postgres = postgres

    def missing(self):
        return super().missing() or (None if self.postgres else "PostgreSQL is not installed")

    def store(self):
        return self.postgres.url


class LiteLlm(Target):
    """LiteLLM's proxy (PyPI: `litellm[proxy]`), nothing switched on."""

    name = "litellm"
    ready_path = "/health/liveliness"

    def missing(self):
        return None if shutil.which("litellm") else "not installed (pip install 'litellm[proxy]')"

    def prepare(self):
        with open(os.path.join(self.folder, "config.yaml"), "w", encoding="utf-8") as file:
            file.write("model_list:\n  - model_name: gpt-4o-mini\n    litellm_params:\n      model: openai/gpt-4o-mini\n"
                       f"      api_base: {self.upstream.url}/v1\n      api_key: sk-bench\n")

    def environment(self):
        # Anybody may ask: it would want a key of its own in place of a user's token.
        return super().environment() | {"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}

    def command(self):
        return ["litellm", "--config", "config.yaml", "--port", str(self.port), "--num_workers", "1"]


class Ferro(Target):
    """Ferro's gateway (PyPI: `ferrogw`). It knows one key, so all users come with that."""

    name = "ferro"
    ready_path = "/readyz"
    key = "fgw_" + "0123456789abcdef" * 2

    def missing(self):
        return None if shutil.which("ferrogw") else "not installed (pip install ferrogw)"

    def prepare(self):
        with open(os.path.join(self.folder, "config.yaml"), "w", encoding="utf-8") as file:
            file.write("strategy:\n  mode: fallback\ntargets:\n  - virtual_key: openai\n")
        with open(os.path.join(self.folder, "tokens"), "w", encoding="utf-8") as file:
            file.write(self.key + "\n")

    def environment(self):
        return super().environment() | {"PORT": str(self.port), "GATEWAY_CONFIG": "config.yaml", "MASTER_KEY": self.key,
                                        "RATE_LIMIT_RPS": "1000000", "RATE_LIMIT_BURST": "1000000"}

    def command(self):
        return ["ferrogw", "serve"]

    def load(self, **options):
        return super().load(**options | {"tokens": os.path.join(self.folder, "tokens")})


class Portkey(Target):
    """Portkey's gateway (npm: `@portkey-ai/gateway`, whose program is called `gateway`)."""

    name = "portkey"

    def missing(self):
        found = shutil.which("gateway")
        return None if found and "@portkey-ai" in os.path.realpath(found) else "not installed (npm install -g @portkey-ai/gateway)"

    def command(self):
        return ["gateway", f"--port={self.port}", "--headless"]

    def load(self, **options):
        # It is told by a header what to call.
        config = json.dumps({"provider": "openai", "api_key": "sk-bench", "custom_host": self.upstream.url + "/v1"})
        return super().load(header=f"x-portkey-config: {config}", **options)


class Postgres:
    """A server of our own in a folder of its own; it refuses to be root."""

    def __init__(self, folder):
        # Its user must reach it: not under a home folder.
        self.folder = folder
        self.port = free_port()
        self.url = f"postgres://postgres@127.0.0.1:{self.port}/postgres"
        self.version = None

    @staticmethod
    def binaries():
        """The newest version's folder of programs."""
        base = "/usr/lib/postgresql"
        versions = sorted(filter(str.isdigit, os.listdir(base)), key=int) if os.path.isdir(base) else []
        return os.path.join(base, versions[-1], "bin") if versions else None

    def run(self, *command):
        """A program of its, as its user."""
        prefix = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        return subprocess.run([*prefix, *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              stdin=subprocess.DEVNULL, cwd=self.folder)

    @contextlib.contextmanager
    def serve(self):
        """Serving, with its own defaults: fsync and synchronous_commit are on."""
        bin_folder, data = self.binaries(), os.path.join(self.folder, "data")
        if os.getuid() == 0:
            shutil.chown(self.folder, "postgres")
        self.run(f"{bin_folder}/initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale")
        with open(os.path.join(data, "postgresql.conf"), "a", encoding="utf-8") as file:
            file.write(f"\nlisten_addresses = '127.0.0.1'\nport = {self.port}\nunix_socket_directories = ''\n")
        self.run(f"{bin_folder}/pg_ctl", "-D", data, "-w", "-l", os.path.join(self.folder, "log"), "start")
        with open(os.path.join(data, "PG_VERSION"), encoding="utf-8") as file:
            self.version = file.read().strip()
        try:
            yield self
        finally:
            self.run(f"{bin_folder}/pg_ctl", "-D", data, "-w", "-m", "fast", "stop")

    def pid(self):
        """Of its first process."""
        with open(os.path.join(self.folder, "data", "postmaster.pid"), encoding="utf-8") as file:
            return int(file.readline())


def flush_ms(folder, times=300):
    """How long the disk takes for what a commit does: append a few pages to a file, and flush."""
    path, took = os.path.join(folder, "flushed"), []
    with open(path, "wb", buffering=0) as file:
        for _ in range(times):
            file.write(b"x" * 16384)
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append((time.perf_counter() - begun) * 1000)
            time.sleep(0.002)
    os.remove(path)
    took.sort()
    return {"p50": took[len(took) // 2], "p99": took[int(len(took) * 0.99)]}

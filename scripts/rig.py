"""Starts a `tollgate` binary beside an upstream, and reads what is left behind.

It knows the command line and the files of Tollgate, and nothing of what is being checked. Every process that it starts
it also ends. It needs nothing but Python's standard library.
"""

import base64
import contextlib
import hashlib
import hmac
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))


def free_port():
    """A port of loopback that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def end_on_sigterm():
    """Makes SIGTERM (of `timeout`, say) an exit that ends the children too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def wait_for(what, seconds, probe):
    """The first true answer of `probe`; an error that names `what` after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = probe()
        if answer:
            return answer
        time.sleep(0.05)
    raise TimeoutError(f"{what}: not within {seconds} seconds")


@contextlib.contextmanager
def process(command, **options):
    """A child that is ended, gently and then not, whatever happens."""
    child = subprocess.Popen(command, **options)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(40)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextlib.contextmanager
def fake_openai(folder, key, manner="openai"):
    """The stand-in of fake_openai.py: its base URL, and a function that reads its log."""
    log = os.path.join(folder, f"upstream-{manner}.jsonl")
    command = [sys.executable, os.path.join(HERE, "fake_openai.py"), "--log", log, "--key", key, "--manner", manner]
    with process(command, stdout=subprocess.PIPE, text=True) as child:
        yield child.stdout.readline().strip(), lambda: read_lines(log)


def read_lines(path):
    """One object a line."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


class Relay:
    """Passes connections on to a port of loopback, and breaks some of them off, as a mobile network does.

    `cuts` says for each connection, in the order in which they come, after how many bytes of the answers it breaks, None
    for never; those that come after the last of them are whole. Without `heads`, none breaks within the head of an answer.
    What was sent before the break has arrived.
    """

    def __init__(self, port, cuts, heads=True):
        self.port = port
        self.heads = heads
        self.cuts = iter(cuts)
        self.connections = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def __enter__(self):
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.listener.close()

    def accept(self):
        """Takes connections until it is closed."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.connections += 1
                cut = next(self.cuts, None)
                server = socket.create_connection(("127.0.0.1", self.port))
                threading.Thread(target=self.pump, args=(client, server, None), daemon=True).start()
                threading.Thread(target=self.pump, args=(server, client, cut), daemon=True).start()

    def pump(self, source, sink, cut):
        """Passes bytes on until one side closes, or so many have passed."""
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if cut is None or not self.heads and data.startswith(b"HTTP/1."):
                    sink.sendall(data)
                    continue
                sink.sendall(data[:cut])
                if (cut := cut - len(data)) <= 0:
                    break
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Tollgate:
    """A `tollgate serve` with a folder, a config and a ledger of its own."""

    def __init__(self, binary, folder, config, env):
        self.binary = os.path.abspath(binary)
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.secret = secrets.token_urlsafe(48)
        # Nothing of the caller's environment decides anything: a stray OPENAI_API_KEY must not reach the test.
        self.env = {"PATH": os.environ["PATH"], "HOME": folder, "JWT_SECRET": self.secret, **env}
        with open(os.path.join(folder, "tollgate.toml"), "w", encoding="utf-8") as file:
            file.write(f'[server]\nbind = "127.0.0.1:{self.port}"\n\n{config}')

    @contextlib.contextmanager
    def serve(self):
        """Serving, from ready to stopped; its log goes to `serve.log` in the folder."""
        with open(self.log_path(), "a", encoding="utf-8") as log:
            options = {"cwd": self.folder, "env": self.env, "stdout": log, "stderr": log}
            with process([self.binary, "serve"], **options) as child:
                try:
                    wait_for("tollgate serve", 30, lambda: child.poll() is not None or self.is_ready())
                except TimeoutError:
                    self.fail("did not become ready")
                if child.poll() is not None:
                    self.fail(f"ended with {child.returncode}")
                yield self

    def fail(self, why):
        """Ends with the server's own words."""
        with open(self.log_path(), encoding="utf-8") as log:
            raise SystemExit(f"tollgate serve {why}. Its log:\n{log.read()[-4000:]}")

    def log_path(self):
        """Where the server's log is."""
        return os.path.join(self.folder, "serve.log")

    def is_ready(self):
        """Whether it takes requests."""
        try:
            with urllib.request.urlopen(self.url + "/health/ready", timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def run(self, *arguments):
        """What a command prints."""
        command = [self.binary, *arguments]
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise SystemExit(f"tollgate {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def token(self, plan=None, user=None):
        """A token from `tollgate token`, for a new user unless one is named."""
        more = ["--plan", plan] if plan else []
        return self.run("token", "--user", user or str(uuid.uuid4()), *more).strip()

    def forge(self, **claims):
        """A token signed here, with claims of the caller's choice over those of a good one."""
        now = int(time.time())
        good = {"sub": str(uuid.uuid4()), "aud": "authenticated", "role": "authenticated", "iat": now, "exp": now + 600}

        def part(raw):
            return base64.urlsafe_b64encode(raw).rstrip(b"=")

        head = part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
        signed = head + b"." + part(json.dumps({**good, **claims}).encode())
        return (signed + b"." + part(hmac.new(self.secret.encode(), signed, hashlib.sha256).digest())).decode()

    def rows(self):
        """The ledger's rows by request id, once no request is held."""

        def ended():
            rows = [json.loads(line) for line in self.run("usage", "--requests", "--json").splitlines() if line.strip()]
            return None if any(row["state"] == "held" for row in rows) else rows

        rows = wait_for("every held request ended", 60, lambda: ended() or None)
        return {row["id"]: row for row in rows}


class Checks:
    """Counts checks and prints one line for each."""

    def __init__(self):
        self.passed = 0
        self.failed = 0

    def tell(self, name, error=None):
        """One check's end."""
        if error:
            self.failed += 1
            print(f"✗ {name}\n    {error}", flush=True)
        else:
            self.passed += 1
            print(f"✓ {name}", flush=True)

    def run(self, name, function):
        """Runs one; whatever it raises is its failure."""
        try:
            function()
        except Exception as error:  # noqa: BLE001 - any failure is a failed check, and the rest still run
            self.tell(name, f"{type(error).__name__}: {error}")
        else:
            self.tell(name)

    def close(self):
        """The closing line; the exit code."""
        print(f"{self.passed} passed, {self.failed} failed", flush=True)
        return 1 if self.failed or not self.passed else 0


def expect(what, got, wanted):
    """Equal, or a failure that shows both."""
    if got != wanted:
        raise AssertionError(f"{what}: got {got!r}, wanted {wanted!r}")


def cost_micros(row, price):
    """What a row must cost: `price` is (input, cached input, output) in micro-dollars a million tokens, rounded up once."""
    cached = row["cached_input_tokens"]
    amounts = (row["input_tokens"] - cached, cached, row["output_tokens"])
    return -(-sum(n * p for n, p in zip(amounts, price)) // 1_000_000)

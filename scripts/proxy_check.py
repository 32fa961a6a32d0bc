#!/usr/bin/env python3
"""Do streams stream through the proxies of deploy/? Caddy and nginx, each with the file that is shipped, in front of the
real binary: every event must arrive on its own, as it does without a proxy.

    scripts/proxy_check.py target/debug/tollgate

A proxy that is not installed is said to be so; --all makes it a failure."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def running(words, **how):
    process = subprocess.Popen(words, **how)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def listens(port, process):
    for _ in range(600):
        if process.poll() is not None:
            sys.exit(f"{process.args[0]} ended by itself")
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    sys.exit(f"{process.args[0]} does not listen on {port}")


def moments(url, token):
    """When each event came, in seconds from the first, and all of the text."""
    body = '{"messages": [{"role": "user", "content": "one two three four five six seven eight nine ten"}], "stream": true}'
    words = ["curl", "-sSNk", "--max-time", "60", url + "/api/chat", "-H", f"Authorization: Bearer {token}"]
    words += ["-H", "Content-Type: application/json", "-d", body]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as curl:
        came, text = [], []
        while line := curl.stdout.readline():
            if line.startswith(b"data: "):
                came.append(time.monotonic())
                text.append(line)
    if not text or text[-1].strip() != b"data: [DONE]":
        sys.exit(f"{url}: no whole stream: {text}")
    return [moment - came[0] for moment in came], len(text)


def caddy(directory, port, behind):
    config = os.path.join(directory, "Caddyfile")
    with open(config, "w") as out:
        # As shipped, but for what would touch this machine: no port 80, no certificate authority of its own in the system.
        out.write("{\nadmin off\nskip_install_trust\nauto_https disable_redirects\n}\n")
        out.write(f"import {ROOT}/deploy/caddy/Caddyfile\n")
    env = dict(os.environ, DOMAIN=f"https://localhost:{port}", UPSTREAM=f"127.0.0.1:{behind}")
    env.update(XDG_DATA_HOME=directory, XDG_CONFIG_HOME=directory, HOME=directory)
    return ["caddy", "run", "--config", config, "--adapter", "caddyfile"], env, f"https://localhost:{port}"


def nginx(directory, port, behind):
    text = open(f"{ROOT}/deploy/nginx/tollgate.conf").read()
    # As shipped, but for the certificate, which is not ours.
    text = re.sub(r".*ssl_certificate.*\n", "", text).replace("listen 443 ssl", f"listen 127.0.0.1:{port}")
    text = text.replace("127.0.0.1:8080", f"127.0.0.1:{behind}")
    config = os.path.join(directory, "nginx.conf")
    with open(config, "w") as out:
        out.write(f"daemon off;\npid {directory}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n")
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
            out.write(f"{kind}_temp_path {directory}/{kind};\n")
        out.write(text + "}\n")
    return ["nginx", "-c", config, "-p", directory], dict(os.environ), f"http://127.0.0.1:{port}"


def main():
    arguments = [word for word in sys.argv[1:] if word != "--all"]
    binary = os.path.abspath(arguments[0])
    failed = False
    with tempfile.TemporaryDirectory() as directory:
        # nginx works as nobody, and puts large bodies there.
        os.chmod(directory, 0o711)
        port = free_port()
        told = os.path.join(directory, "told")
        demo = [binary, "demo", "--port", str(port)]
        env = {"PATH": os.environ["PATH"]}
        with open(told, "wb") as out, running(demo, cwd=directory, env=env, stdout=out, stderr=out) as tollgate:
            listens(port, tollgate)
            token = None
            while token is None and tollgate.poll() is None:
                time.sleep(0.1)
                token = re.search(r"eyJ[\w.-]+", open(told).read())
            token = token.group()
            direct, count = moments(f"http://127.0.0.1:{port}", token)
            print(f"without a proxy: {count} events in {direct[-1]:.2f} s")
            for name, make in (("caddy", caddy), ("nginx", nginx)):
                if shutil.which(name) is None:
                    print(f"NOT CHECKED: {name} is not installed")
                    failed |= "--all" in sys.argv
                    continue
                front = free_port()
                words, env, url = make(directory, front, port)
                with running(words, env=env, stderr=subprocess.DEVNULL) as proxy:
                    listens(front, proxy)
                    came, events = moments(url, token)
                # Held back, all events would come at once, or in a few heaps.
                apart = sum(1 for one, next in zip(came, came[1:]) if next - one > 0.25 * direct[-1] / count)
                alone = sum(1 for one, next in zip(direct, direct[1:]) if next - one > 0.25 * direct[-1] / count)
                good = events == count and came[-1] > 0.5 * direct[-1] and apart > 0.6 * alone
                failed |= not good
                print(f"{'behind' if good else 'HELD BACK by'} {name}: {events} events in {came[-1]:.2f} s, {apart} of {alone} apart")
    sys.exit(1 if failed else 0)


main()

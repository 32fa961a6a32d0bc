"""Schemathesis against a running Tollgate: what both listeners answer, compared with what they say that they answer.

Started by api-check.sh, which brings schemathesis. Afterwards the server must live, have panicked nowhere, and hold nothing.
"""

import os
import re
import subprocess
import sys
import tempfile
import urllib.request

from rig import Checks, Tollgate, end_on_sigterm, fake_openai, free_port

KEY = "sk-canary-operator-key"
ADMIN_TOKEN = "canary-admin-token-of-forty-eight-characters-or-so"
SEED = "20261124"
SECONDS = 45
CONFIG = """
admin_bind = "127.0.0.1:{admin}"

[[upstreams]]
name = "openai"
base_url = "{upstream}"
api_key_env = "OPENAI_API_KEY"
models = ["*"]
dialect = "openai"

[plans.free]
default = true
models = ["gpt-4o-mini", "gpt-4o"]
max_output_tokens = 1000
concurrent_requests = 100
limits = [{{ per = "day", requests = 100000 }}, {{ per = "month", cost_usd = "500" }}]

[plans.pro]
models = ["gpt-4o-mini"]
limits = [{{ per = "minute", requests = 5 }}]
"""
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
]


def run(schemathesis, url, document, token, more):
    """One listener; what schemathesis printed is shown if something is wrong."""
    command = [schemathesis, "run", url + document, "--url", url, "--checks", ",".join(CHECKS), "--seed", SEED]
    command += ["--max-examples", "25", "--max-time", str(SECONDS), "--request-timeout", "20"]
    command += ["--header", f"Authorization: Bearer {token}", "--warnings", "off", "--suppress-health-check", "all", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=os.environ["SCRATCH"])
    print(done.stdout[-12000:] if done.returncode else "\n".join(done.stdout.splitlines()[-12:]), flush=True)
    if done.returncode:
        raise AssertionError(f"schemathesis ended with {done.returncode}\n{done.stderr[-2000:]}")


def main():
    """Both listeners, then what is left behind."""
    end_on_sigterm()
    binary, schemathesis = sys.argv[1], os.path.abspath(sys.argv[2])
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder, fake_openai(folder, KEY) as (upstream, _):
        os.environ["SCRATCH"] = folder
        admin = free_port()
        env = {"OPENAI_API_KEY": KEY, "TOLLGATE_ADMIN_TOKEN": ADMIN_TOKEN}
        server = Tollgate(binary, folder, CONFIG.format(upstream=upstream, admin=admin), env)
        with server.serve():
            user = server.token()
            admin_url = f"http://127.0.0.1:{admin}"
            # An endless stream is no answer to wait for; and a paused app answers nothing but that it is.
            leave = ["--exclude-path", "/admin/events", "--exclude-path", "/admin/pause"]
            checks.run("the users' listener", lambda: run(schemathesis, server.url, "/openapi.json", user, []))
            checks.run(
                "the operator's listener",
                lambda: run(schemathesis, admin_url, "/admin/openapi.json", ADMIN_TOKEN, leave),
            )
            checks.run("the server lives", lambda: urllib.request.urlopen(server.url + "/", timeout=5))
            checks.run("nothing is held", server.rows)
        with open(server.log_path(), encoding="utf-8") as log:
            said = log.read()
        found = re.findall(r"panicked at.*", said) + [secret for secret in (KEY, ADMIN_TOKEN) if secret in said]
        checks.tell("the log has no panic and no secret", "\n".join(found))
    return checks.close()


if __name__ == "__main__":
    sys.exit(main())

"""Runs a command (the tests of a client package) beside a Tollgate with plans of its own; started by js-check.sh and swift-check.sh.

The command finds in the environment the server's address, a bad way to it, its secret for tokens, tokens of new users by plan,
its folder and its binary.
"""

import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time

from rig import Relay, Tollgate, end_on_sigterm, fake_openai

KEY = "sk-canary-operator-key"
CONFIG = """
[[upstreams]]
name = "openai"
base_url = "{upstream}"
api_key_env = "OPENAI_API_KEY"
models = ["gpt-4o-mini", "text-embedding-*", "gpt-image-*", "gpt-transcribe", "tts-*"]
dialect = "openai"

[plans.free]
default = true
models = ["gpt-4o-mini", "text-embedding-3-small", "gpt-image-2", "gpt-transcribe", "tts-1"]
limits = [{{ per = "day", requests = 1000 }}]
concurrent_requests = 20

[plans.once]
models = ["gpt-4o-mini"]
limits = [{{ per = "lifetime", requests = 1 }}]

[plans.narrow]
models = ["gpt-4o-mini"]
concurrent_requests = 1
limits = [{{ per = "day", requests = 1000 }}]

[prompts.greet]
model = "gpt-4o-mini"
system = "Greet {{{{name}}}}."
"""


def tokens(gate):
    """Of so many users as a run may need, by plan, and some that have expired."""
    now = int(time.time())
    named = {plan: [gate.forge(app_metadata={"plan": plan}) for _ in range(60)] for plan in ("free", "once", "narrow")}
    return named | {"expired": [gate.forge(iat=now - 900, exp=now - 600) for _ in range(5)]}


def bad_days():
    """Where connections break, for ever: two of three do. (Not within a head: corelibs 6.0 stops a Swift program then.)"""
    dice = random.Random(1)
    return (dice.choice([dice.randrange(1, 3000), dice.randrange(1, 3000), None]) for _ in itertools.count())


def main():
    """Runs the command; its exit code."""
    end_on_sigterm()
    binary, command = os.path.abspath(sys.argv[1]), sys.argv[2:]
    with tempfile.TemporaryDirectory(prefix="tollgate-client-") as folder, fake_openai(folder, KEY) as (upstream, _):
        gate = Tollgate(binary, folder, CONFIG.format(upstream=upstream), {"OPENAI_API_KEY": KEY})
        with gate.serve(), Relay(gate.port, bad_days(), heads=False) as relay:
            env = {"SERVER": gate.url, "LOST": relay.url, "TOKENS": json.dumps(tokens(gate)), "SECRET": gate.secret}
            env |= {"BINARY": binary, "FOLDER": folder, "JWT_SECRET": gate.secret, "OPENAI_API_KEY": KEY}
            return subprocess.run(command, env={**os.environ, **env}, timeout=300, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

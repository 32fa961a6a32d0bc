"""The SDKs that apps are built with against a running Tollgate, each against two manners of upstream.

Started by sdk-matrix.sh, which brings the SDKs. An SDK does five things as its own documentation shows them: a whole
answer, a stream, a tool in two rounds (the model's message goes back as the SDK itself sends it), the same streamed, and
an answer of a given shape. The upstreams are fake_openai.py, once as OpenAI and once as vLLM with a reasoning model. What must come out
is the text, the shape and the tool's result; then every row of the ledger must be settled, exact and unflagged.
Python's SDKs are in sdk_matrix_one.py, each in an environment of its own, and JavaScript's in sdk_matrix.mjs.

    sdk_matrix.py BINARY [--page docs/clients.md]

`--page` also compares the table of that page with what has run.
"""

import json
import os
import subprocess
import sys
import tempfile

from rig import Checks, Tollgate, end_on_sigterm, expect, fake_openai

KEY = "sk-canary-operator-key"
MODELS = {"openai": "gpt-4o-mini", "vllm": "qwen3-8b"}
MARKS = {True: "✓", False: "✗", None: "–"}
TITLES = {"openai": "OpenAI", "vllm": "vLLM, reasoning"}
STEPS = ["whole", "stream", "tools", "streamed_tools", "structured"]
PYTHON = ["openai", "langchain-openai", "pydantic-ai", "openai-agents", "instructor", "llama-index"]
CONFIG = """
[[upstreams]]
name = "openai"
base_url = "{openai}"
api_key_env = "OPENAI_API_KEY"
models = ["gpt-4o-mini"]
dialect = "openai"

[[upstreams]]
name = "vllm"
base_url = "{vllm}"
api_key_env = "OPENAI_API_KEY"
models = ["qwen3-8b"]
dialect = "compatible"

[prices."gpt-4o-mini"]
input = "0.15"
cached_input = "0.075"
output = "0.60"

[prices."qwen3-8b"]
input = "0.15"
output = "0.60"

[plans.free]
default = true
models = ["gpt-4o-mini", "qwen3-8b"]
max_output_tokens = 4000
limits = [{{ per = "day", requests = 1000 }}]
"""


class Matrix:
    """Every cell that has run: SDK, version and manner, and what each step came to."""

    def __init__(self, checks, gate):
        self.checks, self.gate, self.rows = checks, gate, {}

    def tell(self, sdk, manner, step, error):
        """One cell's end."""
        self.checks.tell(f"{sdk} on {manner}: {step}", error)
        self.rows.setdefault((sdk, manner), {})[step] = not error

    def run(self, command):
        """One program of SDKs; what it says of its cells."""
        asked = {"url": self.gate.url + "/v1", "token": self.gate.token(), "models": MODELS}
        env = {**os.environ, "ASKED": json.dumps(asked)}
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, timeout=300)
        said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        for cell in said:
            self.tell(cell["sdk"], cell["manner"], cell["step"], cell["error"])
        if done.returncode or not said:
            self.checks.tell(f"{' '.join(command)} runs to its end", f"exit code {done.returncode}")

    def lines(self):
        """The rows of the table, as the page has them."""
        for (sdk, manner), steps in self.rows.items():
            cells = " | ".join(MARKS[steps.get(step)] for step in STEPS)
            yield f"| {sdk} | {TITLES[manner]} | {cells} |"


def check_ledger(checks, gate, served):
    """Each request that the upstreams served is one row, settled at what they would bill."""

    def exact():
        rows = [row for row in gate.rows().values() if row["state"] != "voided"]
        billed = [entry["usage"] for read in served for entry in read() if entry.get("status") == 200]
        sums = sorted((row["input_tokens"], row["output_tokens"]) for row in rows)
        expect("tokens", sums, sorted((usage["prompt_tokens"], usage["completion_tokens"]) for usage in billed))
        expect("flagged", [row for row in rows if row["flags"] or row["state"] != "settled"], [])

    checks.run("ledger: every request has one row, settled at what the upstream bills", exact)


def main():
    """Runs everything that is installed; the exit code."""
    end_on_sigterm()
    checks, folder_of_sdks = Checks(), os.environ["SDKS_FOLDER"]
    pythons = [name for name in PYTHON if os.path.exists(os.path.join(folder_of_sdks, name))]
    whole = pythons == PYTHON
    with (
        tempfile.TemporaryDirectory(prefix="tollgate-matrix-") as folder,
        fake_openai(folder, KEY) as (openai, openai_served),
        fake_openai(folder, KEY, "vllm") as (vllm, vllm_served),
    ):
        gate = Tollgate(sys.argv[1], folder, CONFIG.format(openai=openai, vllm=vllm), {"OPENAI_API_KEY": KEY})
        with gate.serve():
            matrix = Matrix(checks, gate)
            for name in pythons:
                python = os.path.join(folder_of_sdks, name, "bin", "python")
                matrix.run([python, os.path.join(os.path.dirname(__file__), "sdk_matrix_one.py"), name])
            matrix.run(["node", os.path.join(folder_of_sdks, "node", "sdk_matrix.mjs")])
            check_ledger(checks, gate, [openai_served, vllm_served])

            def thoughts_went_back():
                expect("to OpenAI", [entry for entry in openai_served() if entry.get("thought")], [])
                expect("to vLLM, by some SDK", any(entry.get("thought") for entry in vllm_served()), True)

            if whole:
                checks.run("thoughts go back to vLLM where an SDK sends them, never to OpenAI", thoughts_went_back)
        lines = list(matrix.lines())
        print("\n".join(lines))
        if "--page" in sys.argv:
            with open(sys.argv[sys.argv.index("--page") + 1], encoding="utf-8") as file:
                page = file.read()
            checks.run("the page says what has run", lambda: expect("not there", [li for li in lines if li not in page], []))
    return checks.close()


if __name__ == "__main__":
    sys.exit(main())

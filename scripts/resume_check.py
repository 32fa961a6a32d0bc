"""The client code of docs/answers.md, word for word, in a page of Chromium and in Node, on a network that breaks off.

Started by resume-check.sh, which brings what drives the browser and strips the types. The code is called again whenever it
throws, as the page says. In the end it must have the whole answer, and the ledger one charge for it.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile

from playwright.sync_api import sync_playwright

from rig import Checks, Relay, Tollgate, end_on_sigterm, expect, fake_openai

KEY = "sk-canary-operator-key"
WORDS = 40
CONFIG = """
cors_origins = ["*"]

[[upstreams]]
name = "openai"
base_url = "{upstream}"
api_key_env = "OPENAI_API_KEY"
models = ["gpt-4o-mini"]
dialect = "openai"

[plans.free]
default = true
models = ["gpt-4o-mini"]
limits = [{{ per = "day", requests = 1000 }}]
"""
# Where each connection breaks: before the head, in the first events, in later ones; a connection after these is whole.
CUTS = [0, 900, 2500, 700]
LOOP = """
async function goOn(key, server, token, words) {
  const pending = { key, events: 0, text: "" };
  const body = { messages: [{ role: "user", content: `[[words=${words}]] [[pace=5]]` }], stream: true };
  let tries = 0;
  const ids = new Set();
  for (; tries < 20; tries += 1) {
    try {
      await follow(pending, server, token, body);
      return { ...pending, tries, ids: [...ids, pending.id] };
    } catch (error) {
      if (pending.id) ids.add(pending.id);
      await new Promise((resolve) => setTimeout(resolve, 30));
    }
  }
  throw new Error(`still not whole after ${tries} tries: ${JSON.stringify(pending)}`);
}
"""


def told(gate, what, run):
    """Runs the client over a bad network, and looks at what it has and at what it was charged."""
    before = set(gate.rows()) if gate.asked else set()
    gate.asked = True
    with Relay(gate.port, CUTS) as relay:
        have = run(f"{what}-page", relay.url, gate.token(), WORDS)
        expect("connections", relay.connections >= len(CUTS) + 1, True)
    expect("text", have["text"], " ".join(f"word{n}" for n in range(1, WORDS + 1)))
    expect("lost and asked again, times", have["tries"], len(CUTS))
    expect("ids of the request", len(set(have["ids"])), 1)
    made = [row for row in gate.rows().values() if row["id"] not in before]
    expect("rows", [(row["id"], row["state"]) for row in made], [(have["id"], "settled")])
    expect("output tokens", made[0]["output_tokens"], WORDS)


def in_node(code):
    """The client in Node."""

    def run(*arguments):
        call = f"goOn(...{json.dumps(arguments)}).then((have) => console.log(JSON.stringify(have)))"
        done = subprocess.run(["node", "-e", code + call], capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise AssertionError(done.stderr)
        return json.loads(done.stdout)

    return run


def in_page(page, code):
    """The client in a page of another origin."""
    page.add_script_tag(content=code)
    return lambda *arguments: page.evaluate("(given) => goOn(...given)", list(arguments))


def main():
    """Runs everything; the exit code."""
    end_on_sigterm()
    binary, script = sys.argv[1:]
    with open(script, encoding="utf-8") as file:
        code = file.read() + LOOP
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        raise SystemExit("there is no Chromium: apt-get install chromium")
    checks = Checks()
    with tempfile.TemporaryDirectory(prefix="tollgate-resume-") as folder, fake_openai(folder, KEY) as (upstream, _):
        gate = Tollgate(binary, folder, CONFIG.format(upstream=upstream), {"OPENAI_API_KEY": KEY})
        gate.asked = False
        with gate.serve(), sync_playwright() as playwright:
            arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
            browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
            page = browser.new_page()
            page.goto(gate.url)
            checks.run("a page in Chromium has the whole answer after four cuts, and pays once",
                       lambda: told(gate, "chromium", in_page(page, code)))
            checks.run("the same code in Node", lambda: told(gate, "node", in_node(code)))
            browser.close()
    return checks.close()


if __name__ == "__main__":
    sys.exit(main())

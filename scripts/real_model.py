"""Tollgate in front of a real model: is what it charges what the model's server counted?

llama.cpp counts the tokens of its prompts and answers in `/metrics`, whatever it tells in a response; requests go one at
a time, so the difference between two readings is one request. Embeddings are not in there: what they are compared with is
its `/tokenize`. Started by real-model.sh.
"""

import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import urllib.request

from rig import HERE, Checks, Tollgate, cost_micros, end_on_sigterm, expect, free_port, process, wait_for

KEY = "sk-real-model"
MODEL = "gemma3-270m"
EMBEDDER = "gemma3-embedder"
# Micro-dollars a million tokens; the same numbers as dollars in CONFIG.
PRICE = (100_000, 25_000, 400_000)
EMBEDDER_PRICE = (20_000, 20_000, 0)
CONFIG = """
[[upstreams]]
name = "llama"
base_url = "{upstream}"
api_key_env = "LLAMA_API_KEY"
models = ["gemma3-270m"]
dialect = "compatible"

[[upstreams]]
name = "embedder"
base_url = "{embedder}"
api_key_env = "LLAMA_API_KEY"
models = ["gemma3-embedder"]
dialect = "compatible"

[prices."gemma3-270m"]
input = "0.10"
cached_input = "0.025"
output = "0.40"

[prices."gemma3-embedder"]
input = "0.02"
output = "0"
endpoints = ["embeddings"]

[plans.free]
default = true
models = ["gemma3-270m", "gemma3-embedder"]
max_output_tokens = 48
limits = [{{ per = "day", requests = 1000 }}, {{ per = "month", cost_usd = "5" }}]

[proxy]
on_disconnect = "{on_disconnect}"
# Long: on a busy machine the model is slow, and a drain that is cut short is another story.
drain_timeout = "10m"
first_byte_timeout = "10m"
"""


@contextlib.contextmanager
def llama(folder, *more):
    """llama.cpp's server: its base URL."""
    log = os.path.join(folder, f"llama{len(more)}.log")
    command = [sys.executable, os.path.join(HERE, "llama_server.py"), "--key", KEY, "--port", str(free_port())]
    command += ["--model", os.environ["MODEL_FILE"], *more]
    with open(log, "w", encoding="utf-8") as errors:
        with process(command, stdout=subprocess.PIPE, stderr=errors, text=True) as child:
            address = child.stdout.readline().strip()
            if not address.startswith("http"):
                raise SystemExit(f"llama.cpp did not start: {open(log, encoding='utf-8').read()[-2000:]}")
            yield address


class Counter:
    """llama.cpp's own count of tokens."""

    def __init__(self, base_url):
        self.url = base_url.removesuffix("/v1") + "/metrics"

    def read(self):
        """The tokens so far: prompt (computed, or found in its cache) and output; and whether it is idle."""
        request = urllib.request.Request(self.url, headers={"Authorization": f"Bearer {KEY}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            lines = [line.split() for line in answer.read().decode().splitlines() if not line.startswith("#")]
        values = {name.removeprefix("llamacpp:"): float(value) for name, value in lines}
        cached = int(values["prompt_tokens_cached_total"])
        return {
            "input_tokens": int(values["prompt_tokens_total"]) + cached,
            "cached_input_tokens": cached,
            "output_tokens": int(values["tokens_predicted_total"]),
            "idle": values["requests_processing"] == 0,
        }

    def tokens_of(self, text):
        """What its tokenizer makes of a text, with the token that begins it."""
        url = self.url.replace("/metrics", "/tokenize")
        body = json.dumps({"content": text, "add_special": True}).encode()
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as answer:
            return len(json.load(answer)["tokens"])

    def settled(self):
        """The count once nothing is being generated."""

        def idle():
            count = self.read()
            return count if count.pop("idle") else None

        return wait_for("llama.cpp idle", 600, idle)


def post(gate, path, body, read_events=None):
    """One request with a fresh token: its id, and the answer's bytes; after `read_events` events the caller hangs up."""
    connection = http.client.HTTPConnection("127.0.0.1", gate.port, timeout=600)
    headers = {"Authorization": f"Bearer {gate.token()}", "Content-Type": "application/json"}
    connection.request("POST", path, json.dumps(body), headers)
    answer = connection.getresponse()
    if answer.status != 200:
        raise AssertionError(f"{answer.status}: {answer.read().decode()}")
    raw = b""
    while read_events is None or raw.count(b"\n\n") < read_events:
        # Lines, not `read`: the latter would wait for the whole answer.
        line = answer.readline()
        if not line:
            break
        raw += line
    if connection.sock:
        connection.sock.close()
    answer.close()
    connection.close()
    return answer.headers["x-request-id"], raw


def events(raw):
    """A stream's events so far."""
    return [json.loads(line[6:]) for line in raw.decode().splitlines() if line.startswith("data: {")]


def words(raw):
    """The text of a stream of chat so far."""
    deltas = [choice["delta"] for event in events(raw) for choice in event["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


class Trial:
    """Requests against one Tollgate, each compared with llama.cpp's count."""

    def __init__(self, checks, gate, counter):
        self.checks = checks
        self.gate = gate
        self.counter = counter

    def embeddings(self, name, inputs, more):
        """Vectors for some texts, which cost what llama.cpp makes of them."""

        def compare():
            request_id, raw = post(self.gate, "/v1/embeddings", {"model": EMBEDDER, "input": inputs, **more})
            answer = json.loads(raw)
            row = self.gate.rows()[request_id]
            texts = inputs if isinstance(inputs, list) else [inputs]
            tokens = sum(self.counter.tokens_of(text) for text in texts)
            print(f"    row      input_tokens {row['input_tokens']}  cost {row['cost_micros']} µ$  held {row['held_micros']} µ$"
                  f"  {row['state']} {','.join(row['flags'])}\n    counted  input_tokens {tokens}")
            expect("vectors", [item["index"] for item in answer["data"]], list(range(len(texts))))
            expect("they are different", len({str(item["embedding"]) for item in answer["data"]}), len(texts))
            expect("state and flags", (row["state"], row["flags"]), ("settled", []))
            expect("input tokens", row["input_tokens"], tokens)
            expect("cost", row["cost_micros"], cost_micros(row, EMBEDDER_PRICE))
            expect("above the hold", row["cost_micros"] > row["held_micros"], False)

        self.checks.run(name, compare)

    def once(self, name, path, more, judge, read_events=None):
        """One request; `judge(row, counted, raw)` raises when the row is wrong."""
        # Each prompt is its own, or llama.cpp's prompt cache would answer for the last one.
        prompt = f"Request {len(name)} {name}. Write a long story about a lighthouse keeper and the sea."
        said = {"input": prompt} if path == "/v1/responses" else {"messages": [{"role": "user", "content": prompt}]}
        body = {**said, "temperature": 0, **more}
        before = self.counter.settled()
        shown = {}

        def compare():
            request_id, raw = post(self.gate, path, body, read_events)
            after = self.counter.settled()
            row = self.gate.rows()[request_id]
            counted = {part: after[part] - before[part] for part in after}
            shown.update(row=row, counted=counted)
            judge(row, counted, raw)

        self.checks.run(name, compare)
        if shown:
            row, counted = shown["row"], shown["counted"]
            parts = ("input_tokens", "cached_input_tokens", "output_tokens")
            print("    row      " + "  ".join(f"{p} {row[p]}" for p in parts) + f"  cost {row['cost_micros']} µ$"
                  f"  held {row['held_micros']} µ$  {row['state']} {','.join(row['flags'])}")
            print("    counted  " + "  ".join(f"{p} {counted[p]}" for p in parts))


def exact(row, counted, _raw):
    """The row is what the model's server counted, and costs its price."""
    expect("state", row["state"], "settled")
    for part, count in counted.items():
        expect(part, row[part], count)
    expect("estimated", "estimated" in row["flags"], False)
    expect("cost", row["cost_micros"], cost_micros(row, PRICE))
    expect("above the hold", row["cost_micros"] > row["held_micros"], False)


def exact_stream(row, counted, raw):
    """As `exact`, and the stream reached its end without usage that nobody asked for."""
    exact(row, counted, raw)
    expect("the stream ends", raw.endswith(b"data: [DONE]\n\n"), True)
    expect("usage in the stream", b'"prompt_tokens"' in raw, False)
    expect("words arrived", bool(words(raw)), True)


def exact_events(row, counted, raw):
    """As `exact`, for a stream of /v1/responses: it ends with the event that ends it, and its usage is the row's."""
    exact(row, counted, raw)
    last = events(raw)[-1]
    expect("the last event", last["type"] in ("response.completed", "response.incomplete"), True)
    expect("words arrived", any(event["type"] == "response.output_text.delta" for event in events(raw)), True)
    usage = last["response"]["usage"]
    expect("usage that is told", (usage["input_tokens"], usage["output_tokens"]), (row["input_tokens"], row["output_tokens"]))


def exact_cut_events(row, counted, raw):
    """As `exact`, for a caller that left a stream of /v1/responses."""
    exact(row, counted, raw)
    expect("the caller left before the end", b"response.completed" in raw, False)


def exact_cut(row, counted, raw):
    """As `exact`, for a caller that left."""
    exact(row, counted, raw)
    expect("the caller left before the end", b"[DONE]" in raw, False)


def estimated(row, _counted, raw):
    """Nobody told the usage: something is charged, and never more than was held."""
    expect("the caller left before the end", b"[DONE]" in raw, False)
    expect("state", row["state"], "settled")
    expect("estimated", "estimated" in row["flags"], True)
    expect("something is charged", row["cost_micros"] > 0 and row["input_tokens"] > 0, True)
    expect("the delivered words are charged", row["output_tokens"] > 0 or not words(raw), True)
    expect("above the hold", row["cost_micros"] > row["held_micros"], False)


def main():
    """Every trial; the exit code."""
    end_on_sigterm()
    checks = Checks()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tollgate-model-"))
        upstream = stack.enter_context(llama(folder))
        embedder = stack.enter_context(llama(folder, "--embeddings", "--alias", EMBEDDER))
        for on_disconnect in ("drain", "abort"):
            home = os.path.join(folder, on_disconnect)
            os.mkdir(home)
            config = CONFIG.format(upstream=upstream, embedder=embedder, on_disconnect=on_disconnect)
            gate = Tollgate(sys.argv[1], home, config, {"LLAMA_API_KEY": KEY})
            stack.enter_context(gate.serve())
            trial = Trial(checks, gate, Counter(upstream))
            chat, v1, responses = "/api/chat", "/v1/chat/completions", "/v1/responses"
            stream = {"stream": True}
            if on_disconnect == "drain":
                trial.once("/api/chat, not streamed", chat, {"max_tokens": 16}, exact)
                trial.once("/api/chat, streamed", chat, {**stream, "max_tokens": 16}, exact_stream)
                trial.once("/v1, not streamed", v1, {"model": MODEL, "max_tokens": 16}, exact)
                trial.once("/v1, streamed", v1, {"model": MODEL, **stream, "max_tokens": 16}, exact_stream)
                trial.once("/v1, streamed, no cap asked for", v1, {"model": MODEL, **stream}, exact_stream)
                capped = {"model": MODEL, "max_output_tokens": 16}
                trial.once("/v1/responses, not streamed", responses, capped, exact)
                trial.once("/v1/responses, streamed", responses, {**capped, **stream}, exact_events)
                trial.once("/v1/responses, left after 6 events", responses, {"model": MODEL, **stream}, exact_cut_events, read_events=6)
                vectors = Trial(checks, gate, Counter(embedder))
                vectors.embeddings("/v1/embeddings, one text", "The lighthouse keeper went out to sea.", {})
                several = ["A note.", "Ein Brief über das Meer, größer als alles.", "灯台守は海へ出た。"]
                vectors.embeddings("/v1/embeddings, several texts, as base64", several, {"encoding_format": "base64"})
                trial.once("/api/chat, left after 5 events, drained", chat, stream, exact_cut, read_events=5)
                trial.once("/v1, left after 1 event, drained", v1, {"model": MODEL, **stream}, exact_cut, read_events=1)
            else:
                trial.once("/api/chat, left after 10 events, aborted", chat, stream, estimated, read_events=10)
                trial.once("/v1, left after 1 event, aborted", v1, {"model": MODEL, **stream}, estimated, read_events=1)
    return checks.close()


if __name__ == "__main__":
    sys.exit(main())

"""Anthropic's own SDKs against a running Tollgate: whole, streamed, with tools, thoughts and a cached prompt, and refused.

Started by sdk-check.sh, which brings the SDKs. A stand-in of Anthropic's API runs in this process and bills by a rule of
its own. Checks of the TypeScript SDK are in anthropic_check.mjs. The last check compares the ledger with what was billed.
"""

import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading

import anthropic

from rig import Checks, Tollgate, end_on_sigterm, expect, free_port

KEY = "sk-ant-canary-operator-key"
MODEL = "claude-test"
# Dollars a million tokens: plain prompt, read from the cache, written for five minutes and for an hour, output.
CONFIG = """
[[upstreams]]
preset = "anthropic"
base_url = "http://127.0.0.1:{port}/v1"
api_key_env = "ANTHROPIC_API_KEY"

[prices."claude-test"]
input = "4"
cached_input = "0.4"
cache_write = "5"
cache_write_1h = "8"
output = "20"

[plans.free]
default = true
models = ["claude-test"]
max_output_tokens = 4000
limits = [{{ per = "day", requests = 100 }}]

[plans.once]
models = ["claude-test"]
limits = [{{ per = "lifetime", requests = 1 }}]
"""
PRICES = {"input": 4, "read": 0.4, "written": 5, "hour": 8, "output": 20}
TOOL = {
    "name": "weather",
    "description": "The weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class Upstream(http.server.BaseHTTPRequestHandler):
    """Anthropic's API: it answers what it is asked for, and keeps books."""

    protocol_version = "HTTP/1.1"
    books = {}
    seen = []

    def log_message(self, *_):
        """Nothing."""

    def send(self, kind, body):
        """An answer with its length."""
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        """One request."""
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.seen.append((self.path, dict(self.headers), asked))
        prompt = len(json.dumps(asked["messages"])) // 4
        if self.path.endswith("/count_tokens"):
            self.send("application/json", json.dumps({"input_tokens": prompt}).encode())
            return
        content, thoughts = [], 0
        if asked.get("thinking", {}).get("type") in ("enabled", "adaptive"):
            thoughts = 30
            content.append({"type": "thinking", "thinking": "In short.", "signature": "c2ln"})
        results = [block for message in asked["messages"] for block in message["content"] if isinstance(block, dict)]
        if asked.get("tools") and not any(block["type"] == "tool_result" for block in results):
            content.append({"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}})
        else:
            content.append({"type": "text", "text": "one two three"})
        hour = '"1h"' in json.dumps(asked)
        written = prompt // 2 if "cache_control" in json.dumps(asked) else 0
        usage = {
            "input_tokens": prompt - written,
            "cache_read_input_tokens": 100 if written else 0,
            "cache_creation_input_tokens": written,
            "cache_creation": {
                "ephemeral_1h_input_tokens": written if hour else 0,
                "ephemeral_5m_input_tokens": 0 if hour else written,
            },
            "output_tokens": 10 + thoughts,
            "service_tier": "standard",
        }
        self.books[self.headers["x-client-request-id"]] = usage
        reason = "tool_use" if content[-1]["type"] == "tool_use" else "end_turn"
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL + "-20260101", "content": content}
        message |= {"stop_reason": reason, "stop_sequence": None, "usage": usage}
        if asked.get("stream"):
            self.send("text/event-stream", b"".join(events(message)))
        else:
            self.send("application/json", json.dumps(message).encode())


def events(message):
    """A message as Anthropic streams it."""

    def event(kind, **data):
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()

    begun = message | {"content": [], "stop_reason": None, "usage": message["usage"] | {"output_tokens": 1}}
    yield event("message_start", message=begun)
    yield event("ping")
    for index, block in enumerate(message["content"]):
        pieces = {"text": "text_delta", "thinking": "thinking_delta", "signature": "signature_delta"}
        empty = block | {name: "" for name in pieces if name in block} | ({"input": {}} if "input" in block else {})
        yield event("content_block_start", index=index, content_block=empty)
        for name, kind in pieces.items():
            if name in block:
                yield event("content_block_delta", index=index, delta={"type": kind, name: block[name]})
        if "input" in block:
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
            yield event("content_block_delta", index=index, delta=delta)
        yield event("content_block_stop", index=index)
    delta = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield event("message_delta", delta=delta, usage={"output_tokens": message["usage"]["output_tokens"]})
    yield event("message_stop")


def ask(text="Say something."):
    """The messages of one question."""
    return [{"role": "user", "content": text}]


class Python:
    """The checks of the Python SDK. Each method that starts with `when_` is one, and its name is its sentence."""

    def __init__(self, gate):
        self.gate = gate
        self.client = anthropic.Anthropic(base_url=gate.url, api_key=gate.token(), max_retries=0)

    def both(self, **body):
        """The same, whole and streamed."""
        body = {"model": MODEL, "max_tokens": 300, "messages": ask(), **body}
        whole = self.client.messages.create(**body)
        with self.client.messages.stream(**body) as stream:
            streamed = stream.get_final_message()
        kinds = lambda message: [block.model_dump() for block in message.content]  # noqa: E731
        expect("the same content", kinds(streamed), kinds(whole))
        expect("the same usage", streamed.usage.model_dump(), whole.usage.model_dump())
        return whole

    def when_whole_and_streamed_the_text_and_its_usage_arrive(self):
        answer = self.both(system="Be brief.", extra_body={"temperature": 0.5}, stop_sequences=["END"], metadata={"user_id": "me"})
        expect("text", answer.content[0].text, "one two three")
        expect("output", answer.usage.output_tokens, 10)
        path, headers, asked = Upstream.seen[-1]
        expect("path", path, "/v1/messages")
        expect("key", headers["x-api-key"], KEY)
        expect("the user", asked["metadata"]["user_id"] == "me", False)

    def when_a_tool_is_called_its_result_goes_back_with_the_models_message(self):
        answer = self.both(tools=[TOOL], tool_choice={"type": "auto"}, thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2000)
        call = answer.content[-1]
        expect("the call", (call.name, call.input), ("weather", {"city": "Paris"}))
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "Sunny."}
        turn = [*ask(), {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
        answer = self.client.messages.create(model=MODEL, max_tokens=2000, messages=turn, tools=[TOOL])
        expect("text", answer.content[0].text, "one two three")

    def when_the_model_thinks_its_thoughts_arrive(self):
        answer = self.both(thinking={"type": "adaptive"})
        expect("blocks", [block.type for block in answer.content], ["thinking", "text"])
        expect("output", answer.usage.output_tokens, 40)

    def when_the_prompt_is_cached_each_part_has_its_price(self):
        for mark in ({"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}):
            blocks = [{"type": "text", "text": "A long text. " * 20, "cache_control": mark}]
            answer = self.both(messages=[{"role": "user", "content": blocks}])
            expect("read", answer.usage.cache_read_input_tokens, 100)

    def when_tokens_are_counted_nothing_is_charged(self):
        expect("counted", self.client.messages.count_tokens(model=MODEL, messages=ask()).input_tokens > 0, True)

    def when_models_are_listed_the_plans_are_told(self):
        expect("models", [model.id for model in self.client.models.list()], [MODEL])

    def when_a_request_is_refused_the_sdk_raises_its_own_error(self):
        refused = lambda call: self.refused(call)  # noqa: E731
        create = lambda client=self.client, **body: client.messages.create(  # noqa: E731
            **{"model": MODEL, "max_tokens": 30, "messages": ask(), **body}
        )
        nobody = anthropic.Anthropic(base_url=self.gate.url, api_key="nonsense", max_retries=0)
        once = anthropic.Anthropic(base_url=self.gate.url, auth_token=self.gate.token("once"), max_retries=0)
        create(client=once)
        search = {"type": "web_search_20250305", "name": "web_search"}
        for kind, status, name, code, call in (
            (anthropic.AuthenticationError, 401, "authentication_error", "invalid_token", lambda: create(client=nobody)),
            (anthropic.APIStatusError, 402, "billing_error", "quota_exceeded", lambda: create(client=once)),
            (anthropic.PermissionDeniedError, 403, "permission_error", "model_not_allowed", lambda: create(model="x")),
            (anthropic.BadRequestError, 400, "invalid_request_error", "unsupported_field", lambda: create(tools=[search])),
        ):
            error = refused(call)
            expect("class", isinstance(error, kind), True)
            expect("status", error.status_code, status)
            expect("type", error.body["error"]["type"], name)
            expect("code", error.response.headers["x-tollgate-error"], code)
            expect("request", error.body["request_id"], error.response.headers["x-request-id"])

    def refused(self, call):
        """The error that a call raises."""
        try:
            call()
        except anthropic.APIStatusError as error:
            return error
        raise AssertionError("not refused")


def check_ledger(gate):
    """The rows against what was billed."""
    rows = gate.rows()
    settled = {name: row for name, row in rows.items() if row["state"] == "settled"}
    expect("rows", sorted(settled), sorted(Upstream.books))
    for name, usage in Upstream.books.items():
        written = usage["cache_creation"]
        cost = (
            usage["input_tokens"] * PRICES["input"]
            + usage["cache_read_input_tokens"] * PRICES["read"]
            + written["ephemeral_5m_input_tokens"] * PRICES["written"]
            + written["ephemeral_1h_input_tokens"] * PRICES["hour"]
            + usage["output_tokens"] * PRICES["output"]
        )
        row = settled[name]
        expect(f"the cost of {usage}", row["cost_micros"], -(-round(cost * 1000) // 1000))
        expect("flags", row["flags"], [])
        expect("within the hold", row["cost_micros"] <= row["held_micros"], True)


def run_node(checks, gate):
    """The checks of the TypeScript SDK, which tells one object a line."""
    environment = os.environ | {"BASE_URL": gate.url, "TOKEN": gate.token(), "ONCE": gate.token("once")}
    command = ["node", os.path.join(os.environ["NODE_FOLDER"], "anthropic_check.mjs")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    for line in done.stdout.splitlines():
        told = json.loads(line)
        checks.tell(f"typescript: {told['check']}", told["error"])
    if done.returncode != 0:
        checks.tell("typescript", done.stderr[-2000:])


def main():
    """Runs everything; the exit code."""
    end_on_sigterm()
    checks, port = Checks(), free_port()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Upstream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="tollgate-anthropic-") as folder:
        gate = Tollgate(sys.argv[1], folder, CONFIG.format(port=port), {"ANTHROPIC_API_KEY": KEY})
        with gate.serve():
            python = Python(gate)
            for name in [name for name in dir(Python) if name.startswith("when_")]:
                checks.run(f"python: {name.replace('_', ' ')}", getattr(python, name))
            run_node(checks, gate)
            checks.run(f"ledger: {len(Upstream.books)} rows cost what was billed", lambda: check_ledger(gate))
    return checks.close()


if __name__ == "__main__":
    sys.exit(main())

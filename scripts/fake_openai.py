#!/usr/bin/env python3
"""A stand-in for OpenAI's chat completions, responses, embeddings, moderations, images, speech and transcriptions, with only Python's standard library.

It knows: chat completions and responses streamed and not, tool calls, JSON answers, embeddings, the list of models, usage, and OpenAI's errors.
It does not know a language: it answers with numbered words. What it should do is asked for in the last user message:

    [[words=40]]   answer with so many words (default 8); one word is one token
    [[pace=50]]    wait so many milliseconds before each word
    [[status=503]] refuse with this status and OpenAI's body for it
    [[cut=3]]      break the connection after so many words of a stream
    [[error=3]]    send an error event after so many words of a stream, and end it
    [[seen=1]]     answer with how many pictures and thoughts the request brought (responses only)

With `--manner vllm` it speaks as vLLM does with a reasoning model: `reasoning_content` before the text, usage only where
it is asked for, errors as {"object": "error", …}, and 400 to what only OpenAI knows (`store`, `safety_identifier`, …).

Invariant: each request it served is one line of JSON in the log, with the usage that it would bill. That log is the
ground truth that a ledger is compared with: a stream whose reader left is billed in full, as if it had been read.
"""

import argparse
import base64
import json
import os
import re
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fake_responses

# The head of a PNG of 512 × 512 pixels.
PICTURE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x02\0\0\0\x02\0\x08\x06\0\0\0"

MODELS = [
    "gpt-6-luna", "gpt-4o-mini", "gpt-4o", "gpt-3.5-turbo", "gpt-4.1-mini", "gpt-4.1-nano", "gpt-5-mini", "gpt-5-nano",
]
# OpenAI names the dated model that it used, not the alias that was asked for.
DATED = {"gpt-4o-mini": "gpt-4o-mini-2024-07-18", "gpt-4o": "gpt-4o-2024-08-06"}

# What OpenAI is told and no other server knows.
OPENAIS_OWN = ("store", "safety_identifier", "service_tier", "max_completion_tokens")
# What the reasoning model of vLLM's manner thinks, a token a word.
THOUGHTS = ["Let", " me", " think", "."]

REFUSALS = {
    400: ("invalid_request_error", "context_length_exceeded", "Your messages are too long for this model."),
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided: sk-canary****. "),
    404: ("invalid_request_error", "model_not_found", "The model does not exist."),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached for organization org-canary."),
    500: ("server_error", None, "The server had an error while processing your request."),
    503: ("server_error", "server_is_overloaded", "The engine is currently overloaded."),
}


class Log:
    """Appends one object a line; one writer at a time."""

    def __init__(self, path):
        self.file = open(path, "a", encoding="utf-8")
        self.lock = threading.Lock()
        self.count = 0

    def number(self):
        """The number of the next request."""
        with self.lock:
            self.count += 1
            return self.count

    def write(self, entry):
        """One line, flushed at once: readers look while the server runs."""
        with self.lock:
            self.file.write(json.dumps(entry) + "\n")
            self.file.flush()


def text_of(message):
    """The text of a message, whether its content is a string or a list of parts."""
    content = message.get("content")
    if isinstance(content, list):
        return " ".join(part.get("text", "") for part in content)
    return content or ""


def directives(messages):
    """What the last user message asks for, as numbers by name."""
    said = [text_of(m) for m in messages if m.get("role") == "user"]
    return {name: int(value) for name, value in re.findall(r"\[\[(\w+)=(\d+)\]\]", said[-1] if said else "")}


def usage_of(messages, completion_tokens):
    """Usage as OpenAI reports it; half the prompt counts as read from the cache, so that its price is tried too."""
    prompt_tokens = 3 + sum(2 + len(text_of(m).split()) for m in messages)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": prompt_tokens // 2, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def findings_of(body):
    """What is wrong with each text of a request: it is violent where it says so (`flag:violence`)."""
    given = body["input"] if isinstance(body["input"], list) else [body["input"]]
    violent = ["flag:violence" in json.dumps(one) for one in given]
    return [{"flagged": is_so, "categories": {"violence": is_so}, "category_scores": {"violence": float(is_so)}} for is_so in violent]


def field_of(raw, name):
    """A field of a form, or nothing; its part may have more headers."""
    found = re.search(rb'name="%s"\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]*)' % name.encode(), raw)
    return found[1].decode() if found else None


def embeddings_of(body):
    """Vectors for a request, and their usage: a token for each word of a text, and each token that is one already."""
    given = body["input"]
    inputs = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    tokens = sum(len(one.split()) if isinstance(one, str) else len(one) for one in inputs)
    vector = [1 / n for n in range(1, (body.get("dimensions") or 4) + 1)]
    if body.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    data = [{"object": "embedding", "index": n, "embedding": vector} for n in range(len(inputs))]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": body["model"], "usage": usage}


class Answer:
    """What one request gets: the words or the tool call, and the usage."""

    def __init__(self, body, manner="openai"):
        self.messages = body["messages"]
        self.thoughts = THOUGHTS if manner == "vllm" else []
        self.wants = directives(self.messages)
        self.tool_calls = None
        self.words = self._words(body)
        cap = body.get("max_completion_tokens") or body.get("max_tokens") or 1 << 31
        self.finish = "tool_calls" if self.tool_calls else "length" if len(self.words) > cap else "stop"
        self.words = self.words[:cap]
        self.usage = usage_of(self.messages, len(self.thoughts) + (len(self.words) or 12))
        if self.thoughts:
            # vLLM does not tell what it thought, and what it cached only if it is started so.
            self.usage = {name: value for name, value in self.usage.items() if not name.endswith("_details")}

    def _words(self, body):
        last = self.messages[-1]
        if self.wants.get("seen") and (last.get("role") == "tool" or not body.get("tools")):
            return f"I saw {body['pictures']} pictures and {body['thoughts']} thoughts".split()
        if last.get("role") == "tool":
            return f"The tool said {text_of(last)}".split()
        if body.get("tools"):
            name = body["tools"][0]["function"]["name"]
            call = {"name": name, "arguments": '{"city":"Paris"}'}
            self.tool_calls = [{"id": "call_1", "type": "function", "function": call}]
            return []
        if (body.get("response_format") or {}).get("type") == "json_schema":
            return ['{"city":"Paris"}']
        return [f"word{n}" for n in range(1, self.wants.get("words", 8) + 1)]

    def text(self):
        """The whole text, or none when a tool is called."""
        return " ".join(self.words) if self.words else None

    def deltas(self):
        """The deltas of a stream, one token each; a tool call comes in two, its arguments cut in the middle."""
        for thought in self.thoughts:
            yield {"reasoning_content": thought}
        for n, word in enumerate(self.words):
            yield {"content": word if n == 0 else " " + word}
        for call in self.tool_calls or []:
            arguments = call["function"]["arguments"]
            first, second = arguments[:4], arguments[4:]
            yield {"tool_calls": [{"index": 0, **call, "function": {**call["function"], "arguments": first}}]}
            yield {"tool_calls": [{"index": 0, "function": {"arguments": second}}]}


class Handler(BaseHTTPRequestHandler):
    """Speaks HTTP/1.1 with kept connections, as OpenAI does."""

    protocol_version = "HTTP/1.1"
    # Headers and body leave in two writes: without this, Nagle and delayed ACK add 40 ms to every answer.
    disable_nagle_algorithm = True
    log = None
    key = ""
    manner = "openai"

    def log_message(self, *_):
        """No access log: the request log says more."""

    def do_GET(self):
        """The models."""
        if self.path.rstrip("/") != "/v1/models":
            self.refuse(404, {})
            return
        data = [{"id": m, "object": "model", "created": 1700000000, "owned_by": "system"} for m in MODELS]
        self.send_json(200, {"object": "list", "data": data})

    def do_POST(self):
        """A chat completion, or embeddings."""
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        entry = {"number": self.log.number(), "path": self.path, "at": time.time(), "usage": None, "read_to_end": None}
        try:
            body = json.loads(raw)
        except ValueError:
            body = None
        if self.path == "/v1/audio/transcriptions" and b'name="file"' in raw:
            self.transcription(raw, entry)
            return
        if self.path == "/v1/embeddings" and isinstance(body, dict) and body.get("input"):
            self.embeddings(body, entry)
            return
        if self.path == "/v1/moderations" and isinstance(body, dict) and "input" in body:
            self.moderation(body, entry)
            return
        if self.path.startswith("/v1/images/"):
            self.images(raw, body, entry)
            return
        if self.path == "/v1/audio/speech" and isinstance(body, dict) and body.get("input"):
            self.speech(entry)
            return
        if self.path == "/v1/responses" and isinstance(body, dict) and body.get("input"):
            self.response(body, entry)
            return
        if self.path != "/v1/chat/completions" or not isinstance(body, dict) or not body.get("messages"):
            self.refuse(404 if isinstance(body, dict) else 400, entry)
            return
        entry["sent"] = {name: value for name, value in body.items() if name != "messages"}
        entry["thought"] = any(m.get("reasoning_content") or m.get("reasoning") for m in body["messages"])
        if self.headers.get("Authorization") != f"Bearer {self.key}":
            self.refuse(401, entry)
            return
        strange = [name for name in OPENAIS_OWN if name in body]
        if self.manner == "vllm" and strange:
            self.refuse(400, entry, f"Extra inputs are not permitted: {strange[0]}")
            return
        answer = Answer(body, self.manner)
        if "status" in answer.wants:
            self.refuse(answer.wants["status"], entry)
            return
        entry["id"] = f"chatcmpl-{os.getpid()}-{entry['number']}"
        entry["status"] = 200
        if body.get("stream"):
            self.stream(body, answer, entry)
        else:
            self.whole(body, answer, entry)

    def response(self, body, entry):
        """A response, whole or as events, with a line in the log as for a completion."""
        if self.headers.get("Authorization") != f"Bearer {self.key}":
            self.refuse(401, entry)
            return
        entry["sent"] = {name: value for name, value in body.items() if name != "input"}
        entry["thought"] = fake_responses.brings_open_thoughts(body)
        answer = Answer(fake_responses.as_chat(body), self.manner)
        if "status" in answer.wants:
            self.refuse(answer.wants["status"], entry)
            return
        entry |= {"id": f"resp-{os.getpid()}-{entry['number']}", "status": 200, "usage": answer.usage}
        model = DATED.get(body["model"], body["model"])
        if not body.get("stream"):
            self.log.write({**entry, "read_to_end": True})
            self.send_json(200, fake_responses.response_of(body, answer, entry, model))
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for number, (kind, members) in enumerate(fake_responses.events_of(body, answer, entry, model)):
                if kind.endswith(".delta"):
                    time.sleep(answer.wants.get("pace", 0) / 1000)
                event = json.dumps({"type": kind, "sequence_number": number, **members})
                self.write_chunk(f"event: {kind}\ndata: {event}\n\n".encode())
            self.write_chunk(b"")
            self.log.write({**entry, "read_to_end": True})
        except OSError:
            self.log.write({**entry, "read_to_end": False})
            self.close_connection = True

    def embeddings(self, body, entry):
        """Vectors, with a line in the log as for a completion."""
        if self.headers.get("Authorization") != f"Bearer {self.key}":
            self.refuse(401, entry)
            return
        entry["sent"] = {name: value for name, value in body.items() if name != "input"}
        answer = embeddings_of(body)
        details = {"completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 0}}
        entry |= {"id": f"embd-{os.getpid()}-{entry['number']}", "status": 200, "usage": answer["usage"] | details}
        self.log.write({**entry, "read_to_end": True})
        self.send_json(200, answer)

    def transcription(self, raw, entry):
        """Two words, whatever is heard, of two and a half seconds."""
        if self.headers.get("Authorization") != f"Bearer {self.key}":
            self.refuse(401, entry)
            return
        nothing = {"prompt_tokens": 0, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 0}}
        entry |= {"id": f"trsc-{os.getpid()}-{entry['number']}", "status": 200, "usage": nothing, "bytes": len(raw)}
        self.log.write({**entry, "read_to_end": True})
        whole = {"text": "word1 word2", "usage": {"type": "duration", "seconds": 2.5}}
        if field_of(raw, "stream") != "true":
            self.send_json(200, whole)
            return
        deltas = [{"type": "transcript.text.delta", "delta": word} for word in ("word1", " word2")]
        self.send_events([*deltas, {"type": "transcript.text.done", **whole}])

    def moderation(self, body, entry):
        """Findings. What a plan asks for is no request of a user's: it has no line in the log."""
        if self.headers.get("Authorization") != f"Bearer {self.key}":
            self.refuse(401, entry)
            return
        nothing = {"prompt_tokens": 0, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 0}}
        entry |= {"id": f"modr-{os.getpid()}-{entry['number']}", "status": 200, "usage": nothing}
        if isinstance(body["input"], list):
            self.log.write({**entry, "read_to_end": True})
        self.send_json(200, {"id": entry["id"], "model": body["model"], "results": findings_of(body)})

    def images(self, raw, body, entry):
        """One picture, of a prompt in JSON or of the pictures of a form; whole, or as events with the partial ones that are asked for."""
        if self.headers.get("Authorization") != f"Bearer {self.key}":
            self.refuse(401, entry)
            return
        seen = 388 * raw.count(b"filename=")
        details = {"text_tokens": 9, "image_tokens": seen}
        if isinstance(body, dict):
            streamed, partial = bool(body.get("stream")), body.get("partial_images") or 0
        else:
            streamed, partial = field_of(raw, "stream") == "true", int(field_of(raw, "partial_images") or 0)
        made = 272 + 100 * partial
        usage = {"input_tokens": 9 + seen, "output_tokens": made, "total_tokens": 9 + seen + made, "input_tokens_details": details}
        entry |= {"id": f"img-{os.getpid()}-{entry['number']}", "status": 200, "usage": usage}
        picture = base64.b64encode(PICTURE).decode()
        self.log.write({**entry, "read_to_end": True})
        if not streamed:
            self.send_json(200, {"created": 1, "data": [{"b64_json": picture}], "usage": usage})
            return
        kind = "image_edit" if self.path.endswith("/edits") else "image_generation"
        begun = {"type": f"{kind}.partial_image", "b64_json": picture, "created_at": 1}
        events = [{**begun, "partial_image_index": n} for n in range(partial)]
        self.send_events([*events, {"type": f"{kind}.completed", "b64_json": picture, "created_at": 1, "usage": usage}])

    def speech(self, entry):
        """Four kilobytes that are no text."""
        if self.headers.get("Authorization") != f"Bearer {self.key}":
            self.refuse(401, entry)
            return
        entry |= {"id": f"tts-{os.getpid()}-{entry['number']}", "status": 200, "usage": None}
        self.log.write({**entry, "read_to_end": True})
        self.send_bytes("audio/mpeg", b"\xfb" * 4096)

    def send_events(self, events):
        """Events in one piece, each with its name."""
        lines = (f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
        self.send_bytes("text/event-stream", "".join(lines).encode())

    def send_bytes(self, media_type, raw):
        """One answer of any kind with its length."""
        self.send_response(200)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def refuse(self, status, entry, message=None):
        """The error for a status, with what only the operator may see in headers and message."""
        kind, code, usual = REFUSALS.get(status, REFUSALS[500])
        message = message or usual
        headers = {"openai-organization": "org-canary", "Set-Cookie": "canary=1"}
        if status in (429, 503):
            headers["Retry-After"] = "7"
        self.log.write({**entry, "status": status})
        if self.manner == "vllm":
            error = {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": status}
            self.send_json(status, error, headers)
            return
        error = {"message": message, "type": kind, "param": "messages" if status == 400 else None, "code": code}
        self.send_json(status, {"error": error}, headers)

    def send_json(self, status, value, headers=None):
        """One JSON answer with its length."""
        raw = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(raw)

    def head(self, body, entry, kind):
        """The members that every completion and every chunk has."""
        model = DATED.get(body["model"], body["model"])
        if self.manner == "vllm":
            return {"id": entry["id"], "object": kind, "created": int(entry["at"]), "model": model}
        return {
            "id": entry["id"],
            "object": kind,
            "created": int(entry["at"]),
            "model": model,
            "service_tier": "default",
            "system_fingerprint": "fp_standin",
        }

    def whole(self, body, answer, entry):
        """The answer in one piece."""
        time.sleep(answer.wants.get("pace", 0) * len(answer.words) / 1000)
        message = {"role": "assistant", "content": answer.text(), "refusal": None, "annotations": []}
        if answer.tool_calls:
            message["tool_calls"] = answer.tool_calls
        if answer.thoughts:
            more = {"reasoning_content": "".join(answer.thoughts), "function_call": None, "audio": None}
            message = {"tool_calls": [], **message, "annotations": None, **more}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish}
        self.log.write({**entry, "usage": answer.usage, "read_to_end": True})
        completion = self.head(body, entry, "chat.completion")
        self.send_json(200, {**completion, "choices": [choice], "usage": answer.usage})

    def stream(self, body, answer, entry):
        """The answer as events; whoever leaves is billed all the same."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        entry = {**entry, "usage": answer.usage, "read_to_end": True}
        try:
            self.events(body, answer, entry)
        except OSError:
            entry["read_to_end"] = False
            self.close_connection = True
        self.log.write(entry)

    def events(self, body, answer, entry):
        """Every event of a stream."""
        counted = bool((body.get("stream_options") or {}).get("include_usage"))
        chunk = self.head(body, entry, "chat.completion.chunk")
        if counted and self.manner == "openai":
            chunk["usage"] = None

        def choice(delta, finish=None):
            self.event({**chunk, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]})

        choice({"role": "assistant", "content": "" if answer.words else None, "refusal": None})
        for n, delta in enumerate(answer.deltas()):
            if n == answer.wants.get("cut"):
                raise ConnectionAbortedError("asked to cut the stream")
            if n == answer.wants.get("error"):
                kind, code, message = REFUSALS[500]
                self.event({"error": {"message": message, "type": kind, "param": None, "code": code}})
                self.write_chunk(b"")
                return
            time.sleep(answer.wants.get("pace", 0) / 1000)
            choice(delta)
        choice({}, answer.finish)
        if counted:
            self.event({**chunk, "choices": [], "usage": answer.usage})
        self.write_chunk(b"data: [DONE]\n\n")
        self.write_chunk(b"")

    def event(self, value):
        """One `data:` line."""
        self.write_chunk(b"data: " + json.dumps(value).encode() + b"\n\n")

    def write_chunk(self, data):
        """One chunk of a chunked body; an empty one ends it."""
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def handle(self):
        """As inherited, but a peer that is gone is no news."""
        try:
            super().handle()
        except ConnectionError:
            pass


def main():
    """Serves until it is stopped; says where on its first line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--bind", default="127.0.0.1", help="0.0.0.0 for callers in containers")
    parser.add_argument("--log", default=os.devnull, help="where each request is written, one object a line")
    parser.add_argument("--manner", choices=["openai", "vllm"], default="openai", help="whose manner it has")
    parser.add_argument("--key", default="sk-standin", help="the only API key it takes")
    asked = parser.parse_args()
    Handler.log = Log(asked.log)
    Handler.key = asked.key
    Handler.manner = asked.manner
    server = ThreadingHTTPServer((asked.bind, asked.port), Handler)
    server.daemon_threads = True
    print(f"http://127.0.0.1:{server.server_address[1]}/v1", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()

"""Every endpoint: what a request of it looks like, and the CPU that it takes beside nginx."""

import base64
import json
import os
import struct

import rig

MODELS = ["gpt-4o-mini", "text-embedding-3-small", "gpt-image-1-mini", "whisper-1", "tts-1", "omni-moderation-latest", "claude-bench"]
QUESTION = "What should I cook tonight with rice, two eggs and a leek, if I have twenty minutes and one pan?"
BOUNDARY = "bench-bench-bench"


def wav(seconds):
    """Silence, 8,000 samples of a byte a second."""
    samples = 8000 * seconds
    return (b"RIFF" + struct.pack("<I", 36 + samples) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000, 1, 8)
            + b"data" + struct.pack("<I", samples) + b"\x80" * samples)


def form():
    """Four seconds of audio, as a phone sends them."""
    def part(head, data):
        return f"--{BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + data + b"\r\n"
    memo = part('name="file"; filename="memo.wav"\r\nContent-Type: audio/wav', wav(4))
    return part('name="model"', b"whisper-1") + memo + f"--{BOUNDARY}--\r\n".encode()


def picture():
    """A small PNG by its data URL: only its header is read."""
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 640, 480) + b"\x08\x02\0\0\0"
    return "data:image/png;base64," + base64.b64encode(head + b"\0" * 24_000).decode()


def of_json(**body):
    """A body in JSON."""
    return json.dumps(body).encode()


# The name of the row, the path, the body, and what else the loader is told. Streams have 16 events.
ENDPOINTS = [
    ("chat", "/v1/chat/completions", None, {}),
    ("chat, a stream", "/v1/chat/completions", None, {"stream": True}),
    ("chat about a picture", "/v1/chat/completions", of_json(model="gpt-4o-mini", max_tokens=64, messages=[{"role": "user", "content": [
        {"type": "text", "text": QUESTION}, {"type": "image_url", "image_url": {"url": picture(), "detail": "low"}}]}]), {}),
    ("responses", "/v1/responses", None, {}),
    ("responses, a stream", "/v1/responses", None, {"stream": True}),
    ("messages", "/v1/messages", of_json(model="claude-bench", max_tokens=256, messages=[{"role": "user", "content": QUESTION}]),
     {"header": "anthropic-version: 2023-06-01"}),
    ("embeddings", "/v1/embeddings", of_json(model="text-embedding-3-small", input=QUESTION), {}),
    ("moderations", "/v1/moderations", of_json(input=QUESTION), {}),
    ("images/generations", "/v1/images/generations", of_json(model="gpt-image-1-mini", prompt=QUESTION, size="1024x1024", quality="low"), {}),
    ("audio/speech", "/v1/audio/speech", of_json(model="tts-1", voice="alloy", input=QUESTION), {}),
    ("audio/transcriptions", "/v1/audio/transcriptions", form(), {"content_type": f"multipart/form-data; boundary={BOUNDARY}"}),
]


class Tollgate(rig.Tollgate):
    """With a plan that has a model for each endpoint."""

    models = MODELS

    def environment(self):
        return super().environment() | {
            "TOLLGATE_UPSTREAMS__0__MODELS": '["*"]',
            # A server of one's own that speaks Anthropic's API as well as OpenAI's.
            "TOLLGATE_PRICES": '{ "claude-bench" = { input = "1", output = "5", endpoints = ["messages"] } }'}


def measure(upstream, folder, rounds, requests, burn):
    """Rounds of {row: {target: result}}; `burn` loads a target and says what it used."""
    nginx, tollgate = rig.Nginx(folder, upstream), Tollgate(folder, upstream)
    tokens = upstream.tokens(1000)
    with nginx.serve(), tollgate.serve():
        for number in range(1, rounds + 1):
            results = {}
            for name, path, body, options in ENDPOINTS:
                if body is not None:
                    options = options | {"body": os.path.join(folder, "body")}
                    with open(options["body"], "wb") as file:
                        file.write(body)
                for target in (nginx, tollgate):
                    target.path = path
                    load = {"tokens": tokens, "concurrency": 64, **options}
                    burn(target, requests=500, **load)
                    result = results.setdefault(name, {})[target.name] = burn(target, requests=requests, **load)
                    if result["ok"] != result["requests"]:
                        raise SystemExit(f"{name} fails at {target.name}: {result['statuses']}")
                ours, theirs = (results[name][target.name]["cpu_s_per_1k"] for target in (tollgate, nginx))
                rig.say(f"round {number} {name}: {ours:.3f} CPU-s/1k, nginx {theirs:.3f}: {ours / theirs:.2f}")
            yield results

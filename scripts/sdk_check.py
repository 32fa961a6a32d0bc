"""OpenAI's own SDKs against a running Tollgate: what an app's developer would write, and what the ledger says of it.

Started by sdk-check.sh, which brings the SDKs. Checks of the Python SDK are here, those of the Node SDK in
sdk_check.mjs; both report to one list. The last checks compare the ledger with the SDKs' usage and with the upstream's log.
"""

import asyncio
import base64
import contextlib
import datetime
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import wave

import openai
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from fake_openai import PICTURE
from rig import Checks, Relay, Tollgate, cost_micros, end_on_sigterm, expect, fake_openai, free_port, wait_for

KEY = "sk-canary-operator-key"
MODEL = "gpt-4o-mini"
EMBEDDER = "text-embedding-3-small"
MODERATOR = "omni-moderation-latest"
PAINTER = "gpt-image-2"
SCRIBE = "whisper-1"
THINKER = "gpt-6-luna"
# Two and a half seconds, in each form that a phone or a browser records.
MEMOS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "audio")
MEMO = os.path.join(MEMOS, "memo.m4a")
# Micro-dollars a million tokens; the same numbers as dollars in CONFIG.
PRICES = {MODEL: (150_000, 75_000, 600_000), THINKER: (100_000, 10_000, 500_000)}
CONFIG = """
[[upstreams]]
name = "openai"
base_url = "{upstream}"
api_key_env = "OPENAI_API_KEY"
models = ["gpt-4o-mini", "gpt-5-mini", "gpt-6-luna", "text-embedding-*", "omni-*", "gpt-image-2", "tts-1", "whisper-1", "gpt-transcribe"]
dialect = "openai"

[[upstreams]]
name = "closed"
base_url = "http://127.0.0.1:{closed}/v1"
api_key_env = "OPENAI_API_KEY"
models = ["gpt-4o"]
dialect = "openai"

[prices."gpt-4o-mini"]
input = "0.15"
cached_input = "0.075"
output = "0.60"

[prices."gpt-6-luna"]
input = "0.10"
cached_input = "0.01"
output = "0.50"

[plans.free]
default = true
models = ["gpt-4o-mini", "gpt-4o", "text-embedding-3-small", "omni-moderation-latest", "whisper-1"]
max_output_tokens = 1000
concurrent_requests = 20
limits = [{{ per = "day", requests = 1000 }}, {{ per = "month", cost_usd = "5" }}]

[plans.studio]
models = ["gpt-image-2", "tts-1", "gpt-transcribe"]
limits = [{{ per = "day", images = 10 }}, {{ per = "day", characters = 1000 }}, {{ per = "day", audio_seconds = 600 }}]

[plans.thinker]
models = ["gpt-6-luna"]
max_output_tokens = 1000
limits = [{{ per = "day", requests = 100 }}]

[plans.once]
models = ["gpt-4o-mini"]
limits = [{{ per = "lifetime", requests = 1 }}]

[plans.checked]
models = ["gpt-4o-mini"]
moderate = "input"
limits = [{{ per = "day", requests = 1000 }}]

[plans.three]
models = ["gpt-4o-mini"]
concurrent_requests = 50
limits = [{{ per = "lifetime", requests = 3 }}]

[plans.hourly]
models = ["gpt-4o-mini"]
limits = [{{ per = "hour", requests = 1 }}]

[plans.narrow]
models = ["gpt-4o-mini"]
concurrent_requests = 1
limits = [{{ per = "day", requests = 1000 }}]
"""

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


# A value that a check does not care about.
ANY = object()


def ask(text="Say something."):
    """The messages of one question."""
    return [{"role": "user", "content": text}]


def silence(seconds):
    """A WAV file of so many seconds."""
    raw = io.BytesIO()
    with wave.open(raw, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(bytes(int(seconds * 32000)))
    return raw.getvalue()


class Python:
    """The checks of the Python SDK. Each method that starts with `when_` is one, and its name is its sentence."""

    def __init__(self, gate):
        self.gate = gate
        self.records = []
        self.sent = 0

    def client(self, plan=None, token=None, **more):
        """An SDK client for a new user, which counts what it sends."""

        def count(_request):
            self.sent += 1

        http = openai.DefaultHttpxClient(event_hooks={"request": [count]})
        token = token or self.gate.token(plan)
        return OpenAI(base_url=self.gate.url + "/v1", api_key=token, http_client=http, timeout=30, **more)

    def record(self, what, raw, completion_id, usage):
        """Keeps what the SDK was told, for the ledger's check."""
        usage = usage.model_dump() if usage else None
        record = {"what": f"python {what}", "request_id": raw.headers["x-request-id"], "id": completion_id, "usage": usage}
        self.records.append(record)

    def stream(self, what, client, **body):
        """Reads a stream; its chunks."""
        raw = client.chat.completions.with_raw_response.create(model=MODEL, stream=True, **body)
        expect("content type", raw.headers["content-type"].split(";")[0], "text/event-stream")
        chunks = list(raw.parse())
        self.record(what, raw, chunks[0].id, next((c.usage for c in chunks if c.usage), None))
        return chunks

    def refused(self, kind, status, code, call, param=ANY, sends=1):
        """That `call` raises the SDK's error class, with our status and code, after so many requests; the error."""
        before = self.sent
        try:
            call()
        except openai.APIStatusError as error:
            expect("class", type(error).__name__, kind.__name__)
            expect("status", error.status_code, status)
            expect("code", error.code, code)
            expect("type is a string", type(error.type), str)
            if param is not ANY:
                expect("param", error.param, param)
            expect("X-Tollgate-Error", error.response.headers["x-tollgate-error"], code)
            expect("requests sent", self.sent - before, sends)
            told = error.response.text + str(error.response.headers)
            expect("a canary in the answer", "canary" in told, False)
            return error
        raise AssertionError(f"not refused, wanted {code}")

    def when_not_streamed_the_answer_and_its_usage_arrive(self):
        raw = self.client().chat.completions.with_raw_response.create(model=MODEL, messages=ask())
        answer = raw.parse()
        expect("text", answer.choices[0].message.content, "word1 word2 word3 word4 word5 word6 word7 word8")
        expect("finish", answer.choices[0].finish_reason, "stop")
        self.record("not streamed", raw, answer.id, answer.usage)

    def when_texts_or_tokens_are_embedded_the_vectors_arrive_and_are_paid(self):
        for given, vectors in (("one two three", 1), (["one two", "three"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2)):
            raw = self.client().embeddings.with_raw_response.create(model=EMBEDDER, input=given, dimensions=2)
            answer = raw.parse()
            expect("vectors", [item.embedding for item in answer.data], [[1.0, 0.5]] * vectors)
            expect("usage", answer.usage.prompt_tokens, 3)
            row = wait_for("its row", 5, lambda r=raw: self.settled(r.headers["x-request-id"]))
            paid = (row["endpoint"], row["input_tokens"], row["output_tokens"], row["cost_micros"], row["flags"])
            expect("the row", paid, ("/v1/embeddings", 3, 0, 1, []))

    def when_texts_are_moderated_the_findings_arrive_for_nothing(self):
        raw = self.client().moderations.with_raw_response.create(input=["a kind word", "flag:violence"])
        answer = raw.parse()
        expect("model", answer.model, MODERATOR)
        expect("flagged", [finding.flagged for finding in answer.results], [False, True])
        expect("violence", answer.results[1].categories.violence, True)
        row = wait_for("its row", 5, lambda: self.settled(raw.headers["x-request-id"]))
        expect("the row", (row["endpoint"], row["cost_micros"], row["flags"]), ("/v1/moderations", 0, []))

    def when_a_picture_is_made_or_edited_it_arrives_and_is_paid(self):
        images = self.client(plan="studio").images
        make = images.with_raw_response.generate(model=PAINTER, prompt="an otter", size="auto")
        edit = images.with_raw_response.edit(model=PAINTER, prompt="a hat", image=("a.png", PICTURE), n=1)
        for raw, path, cost in ((make, "generations", 272 * 30 + 9 * 5), (edit, "edits", 272 * 30 + 9 * 5 + 388 * 8)):
            picture = base64.b64decode(raw.parse().data[0].b64_json)
            expect("picture", picture, PICTURE)
            row = wait_for("its row", 5, lambda r=raw: self.settled(r.headers["x-request-id"]))
            paid = (row["endpoint"], row["images"], row["cost_micros"], row["flags"])
            expect("the row", paid, (f"/v1/images/{path}", 1, cost, []))

    def when_a_picture_is_streamed_its_partial_ones_arrive_and_are_paid(self):
        images = self.client(plan="studio").images.with_raw_response
        more = {"model": PAINTER, "prompt": "an otter", "n": 1, "stream": True, "partial_images": 2}
        make = images.generate(**more)
        edit = images.edit(image=[("a.png", PICTURE), ("b.png", PICTURE)], **more)
        for raw, kind, seen in ((make, "image_generation", 0), (edit, "image_edit", 2)):
            events = list(raw.parse())
            expect("events", [event.type for event in events], [f"{kind}.partial_image"] * 2 + [f"{kind}.completed"])
            expect("picture", base64.b64decode(events[-1].b64_json), PICTURE)
            row = wait_for("its row", 5, lambda r=raw: self.settled(r.headers["x-request-id"]))
            paid = (row["images"], row["cost_micros"], row["flags"])
            expect("the row", paid, (1, 472 * 30 + 9 * 5 + seen * 388 * 8, []))

    def when_a_text_is_spoken_the_sound_arrives_and_its_characters_are_paid(self):
        speech = self.client(plan="studio").audio.speech
        answer = speech.create(model="tts-1", voice="alloy", input="Good morning!")
        expect("sound", answer.read(), b"\xfb" * 4096)
        expect("media type", answer.response.headers["content-type"], "audio/mpeg")
        row = wait_for("its row", 5, lambda: self.settled(answer.response.headers["x-request-id"]))
        paid = (row["endpoint"], row["characters"], row["cost_micros"], row["flags"])
        expect("the row", paid, ("/v1/audio/speech", 13, 195, []))

    def when_a_voice_memo_is_sent_its_transcript_arrives_and_is_paid_by_the_second(self):
        scribe = self.client().audio.transcriptions.with_raw_response
        memos = {"memo.wav": silence(2.5)}
        for name in (f"memo.{ending}" for ending in ("m4a", "mp3", "flac", "ogg", "webm")):
            with open(os.path.join(MEMOS, name), "rb") as memo:
                memos[name] = memo.read()
        for name, memo in memos.items():
            raw = scribe.create(model=SCRIBE, file=(name, memo))
            expect(f"text of {name}", raw.parse().text, "word1 word2")
            row = wait_for("its row", 5, lambda r=raw: self.settled(r.headers["x-request-id"]))
            paid = (row["endpoint"], row["audio_seconds"], row["cost_micros"], row["flags"])
            expect(f"the row of {name}", paid, ("/v1/audio/transcriptions", 3, 300, []))

    def when_a_transcript_is_streamed_its_words_arrive_and_the_seconds_are_paid(self):
        scribe = self.client(plan="studio").audio.transcriptions.with_raw_response
        with open(MEMO, "rb") as memo:
            raw = scribe.create(model="gpt-transcribe", file=memo, stream=True)
        events = list(raw.parse())
        kinds = ["transcript.text.delta", "transcript.text.delta", "transcript.text.done"]
        expect("events", [event.type for event in events], kinds)
        expect("text", events[-1].text, "word1 word2")
        row = wait_for("its row", 5, lambda: self.settled(raw.headers["x-request-id"]))
        expect("the row", (row["audio_seconds"], row["cost_micros"], row["flags"]), (3, 225, []))

    def when_a_plan_checks_what_is_said_it_is_refused_before_it_is_sent(self):
        client = self.client(plan="checked")
        call = lambda: client.chat.completions.create(model=MODEL, messages=ask("flag:violence"))  # noqa: E731
        error = self.refused(openai.BadRequestError, 400, "content_flagged", call, param=None)
        expect("categories", error.body["categories"], ["violence"])
        answer = client.chat.completions.create(model=MODEL, messages=ask("a kind word"))
        expect("text", answer.choices[0].message.content.split()[0], "word1")

    def when_a_response_is_asked_for_it_arrives_whole_streamed_and_parsed(self):
        client = self.client()
        raw = client.responses.with_raw_response.create(model=MODEL, input="Say something.", instructions="Be brief.")
        answer = raw.parse()
        expect("text", answer.output_text, "word1 word2 word3 word4 word5 word6 word7 word8")
        self.response("response", raw.headers["x-request-id"], answer)
        with client.responses.stream(model=MODEL, input="Say something.", max_output_tokens=16) as stream:
            kinds = [event.type for event in stream]
            answer = stream.get_final_response()
        expect("first and last event", (kinds[0], kinds[-1]), ("response.created", "response.completed"))
        expect("text", answer.output_text, "word1 word2 word3 word4 word5 word6 word7 word8")

        class Place(BaseModel):
            city: str

        answer = client.responses.parse(model=MODEL, input="Where?", text_format=Place)
        expect("parsed", answer.output_parsed.city, "Paris")

    def when_a_response_calls_a_tool_its_result_goes_back_as_the_sdk_sends_it(self):
        client = self.client()
        tool = {"type": "function", **TOOL["function"], "strict": False}
        items = [{"role": "user", "content": "What is the weather?"}]
        for _ in range(2):
            raw = client.responses.with_raw_response.create(model=MODEL, input=items, tools=[tool])
            answer = raw.parse()
            self.response("response with a tool", raw.headers["x-request-id"], answer)
            items += answer.output
            calls = [item for item in answer.output if item.type == "function_call"]
            items += [{"type": "function_call_output", "call_id": c.call_id, "output": "sunny"} for c in calls]
        expect("text", answer.output_text, "The tool said sunny")

    def when_a_response_sees_a_picture_or_thinks_both_arrive_and_are_paid(self):
        client = self.client()
        picture = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
        parts = [{"type": "input_text", "text": "[[seen=1]]"}, {"type": "input_image", "image_url": picture, "detail": "low"}]
        raw = client.responses.with_raw_response.create(model=MODEL, input=[{"role": "user", "content": parts}])
        answer = raw.parse()
        expect("text", answer.output_text, "I saw 1 pictures and 0 thoughts")
        self.response("response to a picture", raw.headers["x-request-id"], answer)
        # What the model thought goes back sealed, beside the tool's result; whole, and as the stream's helper has it.
        tool = {"type": "function", **TOOL["function"], "strict": False}
        body = {"model": THINKER, "tools": [tool], "reasoning": {"effort": "low"}, "include": ["reasoning.encrypted_content"]}
        client = self.client(plan="thinker")

        def streamed(**more):
            with client.responses.stream(**more) as stream:
                return stream.get_final_response()

        for ask_model in (client.responses.create, streamed):
            items = [{"role": "user", "content": "[[seen=1]]"}]
            for _ in range(2):
                answer = ask_model(**body, input=items, store=False)
                items += answer.output
                calls = [item for item in answer.output if item.type == "function_call"]
                items += [{"type": "function_call_output", "call_id": c.call_id, "output": "sunny"} for c in calls]
            expect("text", answer.output_text, "I saw 0 pictures and 1 thoughts")

    def when_a_response_would_keep_state_or_fails_the_sdk_is_told(self):
        client = self.client()
        call = lambda: client.responses.create(model=MODEL, input="x", store=True)  # noqa: E731
        self.refused(openai.BadRequestError, 400, "unsupported_field", call, param="store")
        call = lambda: client.responses.create(model=MODEL, input="x", tools=[{"type": "web_search"}])  # noqa: E731
        self.refused(openai.BadRequestError, 400, "unsupported_field", call, param="tools[0].type")

    def response(self, what, request_id, answer):
        """Keeps what the SDK was told of a response, by the names that the ledger's check knows."""
        usage = {
            "prompt_tokens": answer.usage.input_tokens,
            "completion_tokens": answer.usage.output_tokens,
            "prompt_tokens_details": {"cached_tokens": answer.usage.input_tokens_details.cached_tokens},
        }
        self.records.append({"what": f"python {what}", "request_id": request_id, "id": answer.id, "usage": usage})

    def when_a_model_does_not_serve_an_endpoint_it_is_refused(self):
        client = self.client()
        call = lambda: client.embeddings.create(model=MODEL, input="one")  # noqa: E731
        self.refused(openai.PermissionDeniedError, 403, "model_not_allowed", call, param="model")
        call = lambda: client.chat.completions.create(model=EMBEDDER, messages=ask())  # noqa: E731
        self.refused(openai.PermissionDeniedError, 403, "model_not_allowed", call, param="model")

    def settled(self, request_id):
        """The row of a request, once it is settled."""
        row = self.gate.rows().get(request_id)
        return row if row and row["state"] == "settled" else None

    def when_max_tokens_is_set_the_answer_is_cut_there(self):
        client = self.client()
        for name in ("max_tokens", "max_completion_tokens"):
            raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=ask(), **{name: 3})
            answer = raw.parse()
            expect("finish", answer.choices[0].finish_reason, "length")
            expect("tokens", answer.usage.completion_tokens, 3)
            self.record(name, raw, answer.id, answer.usage)

    def when_usage_is_asked_for_a_stream_ends_with_it(self):
        options = {"include_usage": True}
        chunks = self.stream("streamed with usage", self.client(), messages=ask(), stream_options=options)
        expect("choices of the last chunk", chunks[-1].choices, [])
        expect("output tokens", chunks[-1].usage.completion_tokens, 8)

    def when_usage_is_not_asked_for_a_stream_never_shows_it(self):
        client = self.client()
        for name, more in {"no options": {}, "false": {"stream_options": {"include_usage": False}}}.items():
            chunks = self.stream(f"streamed, {name}", client, messages=ask(), **more)
            expect("chunks without a choice", [c for c in chunks if not c.choices], [])
            expect("usage", [c.usage for c in chunks if c.usage], [])
            text = "".join(c.choices[0].delta.content or "" for c in chunks)
            expect("text", text, "word1 word2 word3 word4 word5 word6 word7 word8")

    def when_a_tool_is_called_its_result_goes_back(self):
        client = self.client()
        messages = ask("What is the weather?")
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=messages, tools=[TOOL])
        answer = raw.parse()
        self.record("tool call", raw, answer.id, answer.usage)
        call = answer.choices[0].message.tool_calls[0]
        expect("arguments", json.loads(call.function.arguments), {"city": "Paris"})
        messages.append(answer.choices[0].message)
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "sunny"})
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=messages, tools=[TOOL])
        answer = raw.parse()
        self.record("tool result", raw, answer.id, answer.usage)
        expect("text", answer.choices[0].message.content, "The tool said sunny")

    def when_a_tool_call_is_streamed_its_arguments_join(self):
        chunks = self.stream("streamed tool call", self.client(), messages=ask(), tools=[TOOL])
        calls = [call for c in chunks for call in c.choices[0].delta.tool_calls or []]
        expect("name", calls[0].function.name, "weather")
        expect("arguments", "".join(c.function.arguments for c in calls), '{"city":"Paris"}')

    def when_json_is_asked_for_it_parses(self):
        schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
        wants = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
        answer = self.client().chat.completions.create(model=MODEL, messages=ask(), response_format=wants)
        expect("text", json.loads(answer.choices[0].message.content), {"city": "Paris"})

    def when_models_are_listed_they_are_the_plans(self):
        client = self.client()
        expect("models", sorted(m.id for m in client.models.list()), ["gpt-4o", "gpt-4o-mini", MODERATOR, EMBEDDER, SCRIBE])
        expect("one model", client.models.retrieve(MODEL).id, MODEL)
        expect("models of another plan", [m.id for m in self.client("once").models.list()], ["gpt-4o-mini"])

    def when_the_client_is_async_twenty_go_at_once(self):
        async def all_at_once():
            async with AsyncOpenAI(base_url=self.gate.url + "/v1", api_key=self.gate.token()) as client:

                async def one(n):
                    raw = await client.chat.completions.with_raw_response.create(
                        model=MODEL, messages=ask(f"[[words={n + 1}]] [[pace=5]]"), stream=True
                    )
                    chunks = [chunk async for chunk in raw.parse()]
                    self.record("async", raw, chunks[0].id, None)
                    return sum(1 for c in chunks if c.choices[0].delta.content)

                return await asyncio.gather(*(one(n) for n in range(20)))

        expect("words of each", asyncio.run(all_at_once()), list(range(1, 21)))

    def when_a_stream_is_left_the_ledger_knows_its_full_usage(self):
        raw = self.client().chat.completions.with_raw_response.create(
            model=MODEL, stream=True, messages=ask("[[words=60]] [[pace=10]]")
        )
        stream = raw.parse()
        chunks = [next(stream) for _ in range(4)]
        stream.close()
        self.record("left after 4 chunks", raw, chunks[0].id, None)

    def when_the_token_is_bad_it_is_an_authentication_error(self):
        for token, code in {
            "nonsense": "invalid_token",
            self.gate.token()[:-8] + "AAAAAAAA": "invalid_token",
            self.gate.forge(aud="anon"): "invalid_token",
            self.gate.forge(role="service_role"): "invalid_token",
            self.gate.forge(exp=int(time.time()) - 600): "token_expired",
        }.items():
            client = self.client(token=token)
            error = self.refused(
                openai.AuthenticationError, 401, code, lambda c=client: c.chat.completions.create(model=MODEL, messages=ask())
            )
            expect("WWW-Authenticate", error.response.headers["www-authenticate"].split()[0], "Bearer")
        good = self.client(token=self.gate.forge())
        expect("a good one of the same maker", good.models.retrieve(MODEL).id, MODEL)

    def when_the_user_may_not_it_is_a_permission_error(self):
        client = self.client()
        for model in ("gpt-5-mini", "no-such-model", "GPT-4O-MINI "):
            call = lambda m=model: client.chat.completions.create(model=m, messages=ask())  # noqa: E731
            self.refused(openai.PermissionDeniedError, 403, "model_not_allowed", call)
        guest = self.client(token=self.gate.forge(is_anonymous=True))
        call = lambda: guest.chat.completions.create(model=MODEL, messages=ask())  # noqa: E731
        self.refused(openai.PermissionDeniedError, 403, "anonymous_not_allowed", call)

    def when_the_quota_is_used_up_it_is_402_and_never_retried(self):
        client = self.client("once")
        client.chat.completions.create(model=MODEL, messages=ask())
        for stream in (False, True):
            call = lambda s=stream: client.chat.completions.create(model=MODEL, messages=ask(), stream=s)  # noqa: E731
            error = self.refused(openai.APIStatusError, 402, "quota_exceeded", call)
            limit = error.body["limit"]
            expect("limit", (limit["per"], limit["unit"], limit["limit"], limit["used"]), ("lifetime", "requests", 1, 1))
            expect("plan", error.body["plan"], "once")

    def when_three_are_left_and_thirty_are_asked_three_are_served(self):
        async def all_at_once():
            client = AsyncOpenAI(base_url=self.gate.url + "/v1", api_key=self.gate.token("three"), max_retries=0)

            async def one():
                try:
                    await client.chat.completions.create(model=MODEL, messages=ask("[[pace=5]] [[words=5]]"))
                except openai.APIStatusError as error:
                    return error.code
                return "served"

            async with client:
                return await asyncio.gather(*(one() for _ in range(30)))

        ends = asyncio.run(all_at_once())
        expect("served", ends.count("served"), 3)
        expect("refused", ends.count("quota_exceeded"), 27)

    def when_the_rate_is_exceeded_it_is_a_rate_limit_error(self):
        now = datetime.datetime.now(datetime.timezone.utc)
        if now.minute == 59 and now.second > 50:
            time.sleep(61 - now.second)  # both requests must fall in one hour
        client = self.client("hourly", max_retries=0)
        client.chat.completions.create(model=MODEL, messages=ask())
        call = lambda: client.chat.completions.create(model=MODEL, messages=ask())  # noqa: E731
        error = self.refused(openai.RateLimitError, 429, "rate_limited", call)
        wait = int(error.response.headers["retry-after"])
        if not 1 <= wait <= 3600:
            raise AssertionError(f"Retry-After: {wait}")

    def when_too_many_are_open_it_is_a_rate_limit_error(self):
        client = self.client("narrow", max_retries=0)
        stream = client.chat.completions.create(model=MODEL, stream=True, messages=ask("[[words=40]] [[pace=20]]"))
        next(stream)
        call = lambda: client.chat.completions.create(model=MODEL, messages=ask())  # noqa: E731
        error = self.refused(openai.RateLimitError, 429, "too_many_concurrent", call)
        expect("Retry-After is there", "retry-after" in error.response.headers, True)
        expect("the open stream goes on", sum(1 for c in stream if c.choices[0].delta.content), 40)

    def when_a_field_is_wrong_the_error_names_it(self):
        client = self.client()
        cases = {
            "service_tier": ("unsupported_field", {"service_tier": "flex"}),
            "web_search_options": ("unsupported_field", {"web_search_options": {}}),
            "no_such_field": ("unsupported_field", {"extra_body": {"no_such_field": 1}}),
            "tools[0].type": ("unsupported_field", {"tools": [{"type": "web_search"}]}),
            "temperature": ("invalid_request", {"temperature": 9}),
            "max_tokens": ("invalid_request", {"max_tokens": 0}),
            "n": ("invalid_request", {"n": 128}),
        }
        for param, (code, more) in cases.items():
            body = {"model": MODEL, "messages": ask(), **more}
            call = lambda b=body: client.chat.completions.create(**b)  # noqa: E731
            try:
                self.refused(openai.BadRequestError, 400, code, call, param=param)
            except AssertionError as error:
                raise AssertionError(f"{more}: {error}") from error

    def when_the_upstream_fails_it_is_an_internal_server_error(self):
        client = self.client(max_retries=0)
        for said, (status, code) in {
            500: (502, "upstream_error"),
            401: (502, "upstream_error"),
            503: (503, "upstream_unavailable"),
            429: (503, "upstream_unavailable"),
        }.items():
            call = lambda s=said: client.chat.completions.create(model=MODEL, messages=ask(f"[[status={s}]]"))  # noqa: E731
            try:
                error = self.refused(openai.InternalServerError, status, code, call)
            except AssertionError as problem:
                raise AssertionError(f"upstream {said}: {problem}") from problem
            if status == 503:
                expect(f"Retry-After of {said}", error.response.headers["retry-after"], "7")
        call = lambda: client.chat.completions.create(model="gpt-4o", messages=ask())  # noqa: E731
        self.refused(openai.InternalServerError, 503, "upstream_unavailable", call)

    def when_the_upstream_refuses_the_request_the_reason_arrives(self):
        call = lambda: self.client().chat.completions.create(model=MODEL, messages=ask("[[status=400]]"))  # noqa: E731
        self.refused(openai.BadRequestError, 400, "context_length_exceeded", call)

    def when_a_stream_breaks_the_sdk_raises(self):
        client = self.client()
        for how in ("cut", "error"):
            stream = client.chat.completions.create(model=MODEL, stream=True, messages=ask(f"[[{how}=3]]"))
            words = 0
            try:
                for chunk in stream:
                    words += bool(chunk.choices[0].delta.content)
            except openai.APIError as error:
                expect(f"words before the {how}", words, 3)
                expect("a canary in the error", "canary" in str(error), False)
            else:
                raise AssertionError(f"{how}: the stream ended as if it were whole")

    def when_the_connection_is_lost_the_sdks_own_retry_with_a_key_is_paid_once(self):
        client = self.client()
        for name, cuts in {"before the head": [0], "in the head": [40], "in the body": [650], "twice": [0, 40]}.items():
            key = {"Idempotency-Key": "lost-" + name.replace(" ", "-")}
            with Relay(self.gate.port, cuts) as relay:
                lost = client.with_options(base_url=relay.url + "/v1")
                raw = lost.chat.completions.with_raw_response.create(model=MODEL, messages=ask(name), extra_headers=key)
                expect(f"connections, lost {name}", relay.connections, len(cuts) + 1)
            expect(f"replayed, lost {name}", raw.headers["idempotent-replayed"], "true")
            answer = raw.parse()
            expect("text", answer.choices[0].message.content, "word1 word2 word3 word4 word5 word6 word7 word8")
            self.record(f"lost {name}", raw, answer.id, answer.usage)

    @staticmethod
    @contextlib.contextmanager
    def assert_lost():
        """That the network fails in it, with whatever error the SDK's own client has for that."""
        try:
            yield
        except AssertionError:
            raise
        except Exception:  # noqa: BLE001
            return
        raise AssertionError("the stream was not lost")

    def when_a_stream_is_lost_the_same_call_has_all_of_it_and_is_paid_once(self):
        client = self.client()
        with Relay(self.gate.port, [1500]) as relay:
            lost = client.with_options(base_url=relay.url + "/v1")
            body = {"messages": ask("[[pace=20]]"), "extra_headers": {"Idempotency-Key": "a-lost-stream"}}
            with self.assert_lost():
                self.stream("the lost stream", lost, **body)
            chunks = self.stream("the same stream", lost, **body)
        text = "".join(c.choices[0].delta.content or "" for c in chunks)
        expect("text", text, "word1 word2 word3 word4 word5 word6 word7 word8")
        call = lambda: client.chat.completions.create(model=MODEL, messages=ask("another"), **{  # noqa: E731
            "extra_headers": {"Idempotency-Key": "a-lost-stream"}})
        self.refused(openai.UnprocessableEntityError, 422, "idempotency_key_reused", call)


def run_python(checks, gate):
    """Every check of the Python SDK; what it recorded."""
    python = Python(gate)
    for name in [n for n in vars(Python) if n.startswith("when_")]:
        checks.run("python: " + name.replace("_", " "), getattr(python, name))
    return python.records


def run_node(checks, gate):
    """Every check of the Node SDK; what it recorded. It prints one object a line: a check's end or a record."""
    tokens = {plan: gate.token(plan) for plan in ("free", "once", "hourly", "narrow", "studio", "thinker")}
    tokens["expired"] = gate.forge(exp=int(time.time()) - 600)
    with Relay(gate.port, [40]) as relay:
        lost = relay.url + "/v1"
        env = {**os.environ, "BASE_URL": gate.url + "/v1", "LOST_URL": lost, "TOKENS": json.dumps(tokens), "MEMOS": MEMOS}
        env["PICTURE"] = base64.b64encode(PICTURE).decode()
        script = os.path.join(os.environ["NODE_FOLDER"], "sdk_check.mjs")
        done = subprocess.run(["node", script], env=env, stdout=subprocess.PIPE, text=True, timeout=180)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    for check in (s for s in said if "check" in s):
        checks.tell("node: " + check["check"], check["error"])
    if done.returncode or not said:
        checks.tell("node: the script runs to its end", f"exit code {done.returncode}")
    return [s["record"] for s in said if "record" in s]


def bills(served, count):
    """The usage of each request that the upstream served, by the completion's id; waits a little for so many."""

    def now():
        return {entry["id"]: entry["usage"] for entry in served() if entry["status"] == 200}

    # The upstream writes its line after its last byte, and a row may be settled in between.
    with contextlib.suppress(TimeoutError):
        wait_for("the upstream's log", 5, lambda: len(now()) >= count)
    return now()


def check_ledger(checks, gate, records, served):
    """The ledger against what the SDKs were told and what the upstream would bill."""
    rows = gate.rows()
    settled = [row for row in rows.values() if row["state"] == "settled"]
    billed = bills(served, len(settled))

    def same(record):
        row = rows[record["request_id"]]
        expect("state", row["state"], "settled")
        for usage in filter(None, (record["usage"], billed[record["id"]])):
            expect("input tokens", row["input_tokens"], usage["prompt_tokens"])
            expect("output tokens", row["output_tokens"], usage["completion_tokens"])
            expect("cached tokens", row["cached_input_tokens"], usage["prompt_tokens_details"]["cached_tokens"])
        expect("cost", row["cost_micros"], cost_micros(row, PRICES[row["model"]]))
        expect("estimated", "estimated" in row["flags"], False)
        expect("above the hold", row["cost_micros"] > row["held_micros"], False)

    def all_same():
        for record in records:
            try:
                same(record)
            except (AssertionError, KeyError) as error:
                raise AssertionError(f"{record['what']}: {error!r}") from error

    def nothing_else():
        expect("settled rows, against requests that the upstream served", len(settled), len(billed))
        paid = [row for row in settled if row["endpoint"] != "/v1/moderations"]
        free = [row for row in paid if row["cost_micros"] <= 0]
        expect("settled rows that cost nothing", free, [])
        voided = [row for row in rows.values() if row["state"] == "voided" and row["cost_micros"]]
        expect("voided rows that cost something", voided, [])
        expect("other ends", [row for row in rows.values() if row["state"] not in ("settled", "voided")], [])

    def no_canary():
        with open(gate.log_path(), encoding="utf-8") as log:
            text = log.read()
        for secret in (KEY, gate.secret, "canary"):
            expect(f"{secret[:9]}… in the server's log", secret in text, False)

    checks.run(f"ledger: {len(records)} rows equal the usage that SDK and upstream saw, and cost its price", all_same)
    checks.run(f"ledger: {len(billed)} requests were served, and each has exactly one row that pays for it", nothing_else)
    checks.run("log: no secret, and nothing of the upstream's", no_canary)


def main():
    """Runs everything; the exit code."""
    end_on_sigterm()
    checks = Checks()
    with tempfile.TemporaryDirectory(prefix="tollgate-sdk-") as folder, fake_openai(folder, KEY) as (upstream, served):
        config = CONFIG.format(upstream=upstream, closed=free_port())
        gate = Tollgate(sys.argv[1], folder, config, {"OPENAI_API_KEY": KEY})
        with gate.serve():
            records = run_python(checks, gate)
            records += run_node(checks, gate)
            check_ledger(checks, gate, records, served)
            if checks.failed:
                with open(gate.log_path(), encoding="utf-8") as log:
                    print("The end of the server's log:\n" + "".join(log.readlines()[-30:]))
    return checks.close()


if __name__ == "__main__":
    sys.exit(main())

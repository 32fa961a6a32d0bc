"""Bodies of chat requests, each bounded by Tollgate and rendered and counted by real templates and tokenizers.

The bound has to hold for each: for a model of no known tokenizer (`local`) against every open pair, for `gpt-6-luna` against
OpenAI's own renderer of gpt-oss. And it must not be so high that an ordinary conversation is refused. Run by bound-check.sh.
"""

import argparse
import datetime
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import jinja2.sandbox
import openai_harmony as harmony
from tokenizers import Tokenizer

# Llama 3.1 with tools, in the manner of vLLM's template: tools pretty-printed, answers of tools as JSON.
LLAMA = """{{ bos_token }}<|start_header_id|>system<|end_header_id|>

{% if tools %}Environment: ipython
{% endif %}Cutting Knowledge Date: December 2023
Today Date: 29 November 2026

{% if tools %}You have access to the following functions. To call a function, please respond with JSON for a function call. \
Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}. Do not use variables.

{% for tool in tools %}{{ tool | tojson(indent=4) }}

{% endfor %}{% endif %}<|eot_id|>{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>

{% if message.role == 'tool' %}{% if message.content is string %}{{ {"output": message.content} | tojson }}{% else %}\
{{ message.content | tojson }}{% endif %}{% elif message.tool_calls %}{% for call in message.tool_calls %}{"name": "\
{{ call.function.name }}", "parameters": {{ call.function.arguments | tojson }}}{% endfor %}{% elif message.content is \
string %}{{ message.content | trim }}{% else %}{% for part in message.content %}{{ part.text | trim }}{% endfor %}\
{% endif %}<|eot_id|>{% endfor %}<|start_header_id|>assistant<|end_header_id|>

"""
# For tokenizers that come without a template: roles and texts, and as JSON what templates are known to print as JSON.
PLAIN = """{% for message in messages %}{{ message.role }}: {% if message.role == 'tool' %}{{ message.content | tojson }}\
{% elif message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}{{ part.text }}\
{% endfor %}{% endif %}{% if message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}
{% endfor %}{{ tools | tojson(indent=4) }}"""


def raise_exception(message):
    raise jinja2.TemplateError(message)


def to_json(value, indent=None):
    return json.dumps(value, ensure_ascii=False, indent=indent)


class Open:
    """A template and a tokenizer of an open model, as transformers and vLLM use them."""

    def __init__(self, folder, name, template=None, flat=True, html=False):
        self.name = name + (" in a plain template" if template is PLAIN else "") + (", JSON for HTML" if html else "")
        self.tokenizer = Tokenizer.from_file(str(folder / name / "tokenizer.json"))
        self.flat = flat
        config = json.loads((folder / name / "tokenizer_config.json").read_text())
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        if not html:
            environment.filters["tojson"] = to_json
        environment.globals["raise_exception"] = raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        self.template = environment.from_string(template or config["chat_template"])
        token = config.get("bos_token") or ""
        self.bos = token["content"] if isinstance(token, dict) else token

    def count(self, body):
        messages = [self.message(message) for message in body["messages"]]
        values = {"messages": messages, "bos_token": self.bos, "eos_token": "", "add_generation_prompt": True}
        text = self.template.render(**values, tools=body.get("tools"))
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def message(self, message):
        message = dict(message)
        content = message.get("content")
        if isinstance(content, list) and self.flat:
            message["content"] = "\n".join(part.get("text", "") for part in content)
        elif content is None:
            message["content"] = ""
        if "tool_calls" in message:
            message["tool_calls"] = [self.call(call) for call in message["tool_calls"]]
        return message

    def call(self, call):
        """vLLM reads the arguments; the template prints them again."""
        try:
            arguments = json.loads(call["function"]["arguments"])
        except ValueError:
            arguments = call["function"]["arguments"]
        return call | {"function": call["function"] | {"arguments": arguments}}


class Harmony:
    """OpenAI's own renderer of gpt-oss, with o200k."""

    name = "o200k, OpenAI's renderer"

    def __init__(self):
        self.encoding = harmony.load_harmony_encoding(harmony.HarmonyEncodingName.HARMONY_GPT_OSS)

    def count(self, body):
        called = {}
        system = harmony.SystemContent.new().with_conversation_start_date("2026-11-29")
        rendered = [harmony.Message.from_role_and_content(harmony.Role.SYSTEM, system)]
        if body.get("tools"):
            tools = [tool["function"] for tool in body["tools"]]
            described = [
                harmony.ToolDescription.new(tool["name"], tool.get("description", ""), tool.get("parameters"))
                for tool in tools
            ]
            developer = harmony.DeveloperContent.new().with_function_tools(described)
            rendered.append(harmony.Message.from_role_and_content(harmony.Role.DEVELOPER, developer))
        for message in body["messages"]:
            rendered.extend(self.messages(message, called))
        conversation = harmony.Conversation.from_messages(rendered)
        return len(self.encoding.render_conversation_for_completion(conversation, harmony.Role.ASSISTANT))

    @staticmethod
    def messages(message, called):
        content = message.get("content") or ""
        texts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        texts = [harmony.TextContent(text=text) for text in texts]
        role = {"user": harmony.Role.USER, "assistant": harmony.Role.ASSISTANT}.get(message["role"])
        if message["role"] == "tool":
            name = "functions." + called.get(message["tool_call_id"], "f")
            author = harmony.Author(role=harmony.Role.TOOL, name=name)
            yield harmony.Message(author=author, content=texts).with_channel("commentary").with_recipient("assistant")
            return
        if role is None:
            text = "".join(text.text for text in texts)
            yield harmony.Message.from_role_and_content(
                harmony.Role.DEVELOPER, harmony.DeveloperContent.new().with_instructions(text)
            )
        elif content:
            yield harmony.Message.from_role_and_contents(role, texts)
        for call in message.get("tool_calls", []):
            function = call["function"]
            called[call["id"]] = function["name"]
            called_as = harmony.Message.from_role_and_content(harmony.Role.ASSISTANT, function["arguments"])
            yield called_as.with_channel("commentary").with_recipient("functions." + function["name"]).with_content_type(
                "<|constrain|>json"
            )


class Bound:
    """The bounds of Tollgate's own code."""

    def __init__(self, binary):
        self.process = subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def of(self, line):
        """By bytes, and counted; or a text that says why the body is refused."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if answer.startswith("refused"):
            return answer
        by_bytes, counted = map(int, answer.split())
        return by_bytes, counted


def tool(parameters, description="", name="f"):
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def ask(text="Hi", **members):
    return {"messages": [{"role": "user", "content": text}], **members}


def nested(inner, depth):
    for _ in range(depth):
        inner = [inner]
    return inner


def known_cases():
    """Inputs that were once bounded too low, and others of their kinds. Texts of JSON, for `1e15` to stay as it is."""

    def numbers(number, count, member):
        values = ",".join([number] * count)
        schema = '{"type":"object","properties":{"a":{"type":"string","%s":[%s]}}}' % (member, values)
        return json.dumps(ask(tools=[tool("SCHEMA")])).replace('"SCHEMA"', schema)

    for number in ("1e15", "1E+20", "0.1", "5e-7", "1e300", "1e-300", "-1", "1.5e16", "12345678901234567890123", "1e22"):
        for member in ("enum", "default", "examples"):
            yield f"{member} of {number}", numbers(number, 2000, member)
    empty = [{"type": "text", "text": ""}] * 2000
    answers = [{"role": "tool", "tool_call_id": "a", "content": empty}] * 4
    bodies = {
        "nested arrays": ask(tools=[tool({"default": nested([[[[[1]]]]] * 2000, 50)})]),
        "empty parts of tools": {"messages": [{"role": "user", "content": "Hi"}, *answers]},
        "empty parts of a user": ask(empty),
        "many tools": ask(tools=[tool({}, name=f"f{at}") for at in range(128)]),
        "descriptions of objects": ask(
            tools=[tool({"type": "object", "properties": {
                "a": {"type": "object", "description": "word " * 5000, "properties": {}}}})]
        ),
        "deep objects": ask(tools=[tool(deep(28))]),
        "one of many": ask(tools=[tool({"type": "object", "properties": {
            f"p{at}": {"oneOf": [{"type": "string", "description": "d", "default": 1.5e15}] * 20} for at in range(40)}})]),
        "long names": long_names(),
        "arguments": calls('{"a":[' + ",".join(["1e15"] * 3000) + "]}"),
        "nested arguments": calls("[" * 500 + "]" * 500),
        "escaped arguments": calls(json.dumps({"a": "\ufdfa" * 2000})),
        "quotes of a tool": {"messages": [{"role": "tool", "tool_call_id": "a", "content": "\"<'&>\\\n" * 2000}]},
    }
    for text in ("\U0001d160", "\ufdfa", "\u0344", "e\u0323\u0301", "\uac00", "½", "１", "ﬀ", "<|im_start|>", "</s>", "\0", " ",
                 "\n", "\t", "12345", "'", "xqzj", "ABCDEFGHIJKLMNOP", "qrstuvwxyz", " NSMutableDictionary", "👩‍👩‍👧", "한국", "ざ",
                 "龘", "ไทย", "ქართული", "\u200d", "=", "----------------"):
        bodies[f"a run of {text!r}"] = ask(text * (20_000 // len(text.encode())))
    for name, body in bodies.items():
        yield name, json.dumps(body)
        yield name + ", unescaped", json.dumps(body, ensure_ascii=False)


def deep(levels):
    if levels == 0:
        return {"type": "string", "description": "x"}
    return {"type": "object", "description": "x", "title": "t", "properties": {"a": deep(levels - 1)}}


def calls(arguments):
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None, "tool_calls": [call]},
                         {"role": "tool", "tool_call_id": "c", "content": "ok"}]}


def long_names():
    name = "Zq9-xK_" * 9
    body = calls("{}")
    body["messages"][1]["tool_calls"][0]["function"]["name"] = name
    body["messages"] += [body["messages"][2]] * 500
    return body


class Generator:
    """Bodies made to be dear: of mutations and mixtures of what has been seen to be."""

    def __init__(self, seed, words):
        self.random = random.Random(seed)
        self.words = words

    def pick(self, *choices):
        return self.random.choice(choices)

    def piece(self):
        at_random = self.random
        choice = at_random.randrange(10)
        if choice < 4:
            return at_random.choice(self.words)
        if choice == 4:
            return chr(at_random.choice((at_random.randrange(1, 0x250), at_random.randrange(0x250, 0x3400),
                                         at_random.randrange(0x3400, 0xD800), at_random.randrange(0xF900, 0xFFFE),
                                         at_random.randrange(0x10000, 0x20000))))
        if choice == 5:
            return self.pick(" ", "\n", "\t", "    ", "\r\n", " \n ", "\u3000") * at_random.randrange(1, 40)
        if choice == 6:
            return str(at_random.randrange(10 ** at_random.randrange(1, 20)))
        if choice == 7:
            return self.pick("<|im_start|>", "<|eot_id|>", "</s>", "[INST]", "<think>", "```json\n", "</tool_call>")
        if choice == 8:
            return "".join(at_random.choice("abcdefghijklmnopqrstuvwxyzABCXYZ") for _ in range(at_random.randrange(1, 12)))
        return at_random.choice("!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~\\") * at_random.randrange(1, 8)

    def text(self, most=30):
        pieces = [self.piece() for _ in range(self.random.randrange(most))]
        return "".join(pieces) * self.pick(1, 1, 2, 8)

    def number(self):
        at_random = self.random
        return self.pick(at_random.randrange(-10**6, 10**6), at_random.randrange(10**25), at_random.random(), 1e15, 1e20, 5e-324,
                         1.7976931348623157e308, -0.0, at_random.uniform(-1, 1) * 10.0 ** at_random.randrange(-300, 300))

    def value(self, depth):
        choice = self.random.randrange(8 if depth else 4)
        if choice < 2:
            return self.number()
        if choice == 2:
            return self.text(6)
        if choice == 3:
            return self.pick(None, True, False, [], {}, "")
        if choice < 6:
            return [self.value(depth - 1) for _ in range(self.random.randrange(4))] * self.pick(1, 1, 20)
        return {self.text(3): self.value(depth - 1) for _ in range(self.random.randrange(4))}

    def schema(self, depth):
        at_random = self.random
        kind = self.pick("object", "string", "array", "number", ["string", "null"])
        schema = {"type": kind}
        for member in ("description", "title", "default", "enum", "examples", "nullable", "minimum", "oneOf"):
            if at_random.random() < 0.25:
                schema[member] = {
                    "description": lambda: self.text(8), "title": lambda: self.text(4), "default": lambda: self.value(3),
                    "enum": lambda: [self.text(4) for _ in range(at_random.randrange(1, 9))] * self.pick(1, 20),
                    "examples": lambda: [self.value(1) for _ in range(at_random.randrange(5))], "nullable": lambda: True,
                    "minimum": self.number,
                    "oneOf": lambda: [self.schema(depth - 1) for _ in range(at_random.randrange(1, 4))] if depth > 0 else [],
                }[member]()
        if kind == "object" and depth > 0:
            schema["properties"] = {self.text(2): self.schema(depth - 1) for _ in range(at_random.randrange(5))}
        if kind == "array" and depth > 0:
            schema["items"] = self.schema(depth - 1)
        return schema

    def content(self):
        if self.random.random() < 0.3:
            return [{"type": "text", "text": self.text(8)} for _ in range(self.random.randrange(1, 12))] * self.pick(1, 1, 10)
        return self.text()

    def body(self):
        at_random = self.random
        messages = [{"role": "user", "content": self.content()}]
        for _ in range(at_random.randrange(4)):
            kind = at_random.randrange(4)
            if kind == 0:
                messages.append({"role": self.pick("system", "user", "assistant"), "content": self.content()})
                continue
            made = [{"id": f"call{at}", "type": "function", "function": {
                "name": self.pick("f", "get_weather", "Zq9-xK_" * 9),
                "arguments": self.pick(self.text(10), json.dumps(self.value(4)), json.dumps(self.value(3), ensure_ascii=False))}}
                for at in range(at_random.randrange(1, 4))]
            messages.append({"role": "assistant", "content": self.pick(None, self.text(5)), "tool_calls": made})
            messages += [{"role": "tool", "tool_call_id": call["id"], "content": self.content()} for call in made]
        body = {"messages": messages * self.pick(1, 1, 1, 3)}
        if at_random.random() < 0.6:
            body["tools"] = [tool({"type": "object", "properties": {self.text(2): self.schema(3) for _ in range(3)}},
                                  self.text(8), f"f{at}") for at in range(at_random.randrange(1, 8))]
        return body


def ordinary_cases(pairs):
    """Conversations of 8,000 tokens, with tools, in three languages: what each real tokenizer makes 8,000 of."""
    texts = {
        "English": "I moved to a new flat last week and the heating still doesn't work properly. The landlord says somebody will "
                   "come by on Thursday, but he has said that twice before. What can I do in the meantime, and do I have to pay "
                   "the full rent? My contract says nothing about repairs. ",
        "German": "Letzte Woche bin ich umgezogen, und die Heizung funktioniert immer noch nicht richtig. Der Vermieter sagt, am "
                  "Donnerstag komme jemand vorbei, aber das hat er schon zweimal gesagt. Was kann ich bis dahin tun, und muss ich "
                  "die volle Miete zahlen? In meinem Vertrag steht nichts über Reparaturen. ",
        "Japanese": "先週新しい部屋に引っ越しましたが、暖房がまだちゃんと動きません。大家さんは木曜日に誰かが来ると言っていますが、"
                    "もう二回も同じことを言われました。それまでに何ができますか。家賃は全額払わないといけないのでしょうか。"
                    "契約書には修理について何も書いてありません。",
    }
    properties = {name: {"type": "string", "description": f"The {name} that the user asks about, in plain words"}
                  for name in ("city", "street", "date", "unit", "currency")}
    tools = [tool({"type": "object", "properties": properties, "required": ["city"]}, "Looks something up for the user.", f"look_up_{at}")
             for at in range(8)]
    for language, text in texts.items():
        for pair in pairs:
            empty = pair.count(ask(""))
            each = pair.count(ask(text * 20)) - empty
            turns = max(2, 8000 // (each + 5))
            messages = [{"role": ("user", "assistant")[at % 2], "content": text * 20} for at in range(turns | 1)]
            while pair.count({"messages": messages}) > 8000:
                messages[-1] = messages[-1] | {"content": messages[-1]["content"][: -len(text)]}
                if not messages[-1]["content"]:
                    messages = messages[:-2]
            yield f"{language}, {pair.name}", json.dumps({"messages": messages, "tools": tools}), pair


class Check:
    def __init__(self, bound, open_pairs, closed):
        self.bound, self.open, self.closed = bound, open_pairs, closed
        self.worst, self.failures, self.cases = {}, [], 0

    def try_body(self, name, line):
        body = json.loads(line)
        self.cases += 1
        for model, pairs in (("local", self.open), ("gpt-6-luna", self.closed)):
            bounds = self.bound.of('{"model":"%s",%s' % (model, line[1:]))
            if isinstance(bounds, str):
                continue
            for pair in pairs:
                try:
                    real = pair.count(body)
                except (jinja2.TemplateError, harmony.HarmonyError, TypeError, ValueError):
                    continue  # The template refuses such a conversation, and so does its server.
                self.compare(name, line, pair, real, bounds)

    def compare(self, name, line, pair, real, bounds):
        by_bytes, counted = bounds
        ratio = real / counted
        if ratio > self.worst.get(pair.name, (0, ""))[0]:
            self.worst[pair.name] = (ratio, name)
        if real > counted or counted > by_bytes:
            self.failures.append(name)
            print(f"TOO LOW: {name}, {pair.name}: {real} tokens, {counted} counted, {by_bytes} by bytes: {line[:300]}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("binary")
    parser.add_argument("--minutes", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    folder = options.folder
    pairs = [Open(folder, "qwen3"), Open(folder, "llama3_1", LLAMA, flat=False), Open(folder, "gemma3", PLAIN, flat=False),
             Open(folder, "deepseek_v3"), Open(folder, "mistral_nemo", PLAIN, flat=False), Open(folder, "llama2", PLAIN, flat=False),
             Open(folder, "qwen3", PLAIN, flat=False, html=True)]
    closed = [Harmony()]
    bound = Bound(options.binary)
    check = Check(bound, pairs, closed)
    for name, line in known_cases():
        check.try_body(name, line)
    words = [word.replace("Ġ", " ").replace("Ċ", "\n") for word in Tokenizer.from_file(str(folder / "llama3_1" / "tokenizer.json")).get_vocab()]
    generator = Generator(options.seed, sorted(words))
    ends = time.monotonic() + options.minutes * 60
    while time.monotonic() < ends and len(check.failures) < 20:
        check.try_body("generated", json.dumps(generator.body(), ensure_ascii=generator.random.random() < 0.5))
    for pair, (ratio, name) in sorted(check.worst.items()):
        print(f"{pair}: at most {ratio:.3f} of the bound ({name})")
    refused = 0
    for model, sorts in (("local", pairs[:1] + pairs[3:4]), ("gpt-6-luna", closed)):
        for name, line, _ in ordinary_cases(sorts):
            bounds = bound.of('{"model":"%s",%s' % (model, line[1:]))
            print(f"8,000 tokens of {name}: held {bounds[1]}")
            refused += isinstance(bounds, str) or bounds[1] > 32_000
    print(f"{check.cases} bodies, {len(check.failures)} bounded too low, {refused} ordinary ones refused")
    sys.exit(1 if check.failures or refused else 0)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Writes prices.toml from the PyPI package genai-prices, or says how it differs from a fresh run.

    scripts/prices.py             writes prices.toml
    scripts/prices.py --check     prints what would change; never fails for that

The package is installed into a folder of its own, in its newest version (or --version X). What it lacks stands in EXTRA,
with its source. Where two providers have a model of the same name at different prices, the higher of each is taken: the
hold must be enough, and an operator's own [prices] override the table."""

import argparse
import datetime
import difflib
import json
import os
import re
import subprocess
import sys
import tempfile
from decimal import ROUND_UP, Decimal

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TABLE = os.path.join(ROOT, "prices.toml")

# The providers of the presets, and which of their names are theirs (the package lists other vendors' models too).
PROVIDERS = {
    "openai": r"(gpt-|o\d|chatgpt-|codex-|text-embedding-3|text-embedding-ada-002|whisper-1|tts-1)",
    "anthropic": r"claude-",
    "google": r"(gemini-|gemma-)",
    "mistral": r"(mistral-|ministral-|magistral-|codestral|devstral|open-|pixtral-|voxtral-)",
    "groq": r"",
    "x-ai": r"grok-",
    "deepseek": r"deepseek-",
    "together": r".*/",
    "openrouter": r".*/",
}
# Names that no endpoint here serves, or that cost more than their tokens: live sessions, pages of documents, fine-tunes,
# tiers that are asked for by name, searches; and names that the package takes for one that the provider has.
NOT_SERVED = re.compile(
    r"realtime|live|-ocr|deep-research|computer-use|search|robotics|voice|translate|moderation|guard|omni"
    r"|gpt-audio|audio-preview|^gpt-3\.5-turbo-instruct|^gpt-35|^gpt-\d-\d(-|$)|^ft:|\.ft-|:|@|^(ada|babbage|davinci|curie)|cyber|rosalind"
)
DATED = re.compile(r"-\d{4}-\d\d-\d\d$")
# Their key in prices.toml, by the package's.
RATES = {
    "input_mtok": "input",
    "cache_read_mtok": "cached_input",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "output_mtok": "output",
    "input_image_mtok": "image_input",
    "cache_image_read_mtok": "cached_image_input",
    "output_image_mtok": "image_output",
    "input_audio_mtok": "audio_input",
    "output_audio_mtok": "audio_output",
    "input_mchars": "characters",
}
LONG = ("input", "cached_input", "cache_write", "cache_write_1h", "output")
# What the package does not have. gpt-6.2-sol: OpenAI's page of the model (its cache keeps what is written for twelve hours, at
# twice the price). Moderation: free, says OpenAI's page of the model. Names that are an older form of another: OpenAI's page of that model.
EXTRA = {
    "gpt-6.2-sol": {
        "input": "2",
        "cached_input": "0.1",
        "cache_write": "5",
        "output": "10",
        "long": {"above": 272000, "input": "4", "cached_input": "0.2", "cache_write": "10", "output": "15"},
    },
    "omni-moderation-latest": {"free": True},
    "omni-moderation-2024-09-26": {"free": True},
}
HEADER = """\
# What models cost, in US dollars per million tokens. The prices are strings, since money is never a floating-point number.
#
# Written by scripts/prices.py, not by hand: the models of the providers that have a preset, standard tier. What else is known of
# a model (its tokenizer, whether it reasons, what it serves, its last day) is in models.toml. To change a price, or to add a
# model without a new release, write the same keys under [prices."name"] in tollgate.toml: they override this table.
#
#   input, output        what a million prompt and generated tokens cost
#   cached_input         prompt tokens read from the cache (default: input)
#   cache_write, …_1h    prompt tokens written to the cache (default: input), and for an hour (default: twice input)
#   image_…, audio_…     tokens of images and audio, where they cost something else
#   minute, characters   a minute of audio; a million characters
#   long                 prices of the whole request when its prompt has more than `above` tokens
#
# A name with a date (gpt-4o-2024-08-06) costs what its base costs and is not listed, unless its price differs. Where several
# providers have a model of one name, the highest of their prices stands here.
"""

READ = r"""
import datetime, json, sys
from importlib.metadata import version
from genai_prices.data import providers
wanted, now = json.loads(sys.argv[1]), datetime.datetime.now(datetime.UTC)

def names(model):
    def walk(clause):
        if hasattr(clause, "or_"):
            for each in clause.or_:
                yield from walk(each)
        elif hasattr(clause, "equals"):
            yield clause.equals
    return sorted({model.id, *walk(model.match)})

def price(value):
    if hasattr(value, "tiers"):
        return {"base": str(value.base), "tiers": [[tier.start, str(tier.price)] for tier in value.tiers]}
    return {"base": str(value), "tiers": []}

def prices(model):
    # Of prices by the time of day, the highest.
    listed = model.prices if isinstance(model.prices, list) else None
    by_time = [each.prices for each in listed or [] if hasattr(each.constraint, "start_time")]
    chosen = [model.get_prices(now), *by_time]
    return [{key: price(value) for key, value in vars(each).items() if value is not None} for each in chosen]

table = {}
for provider in providers:
    if provider.id in wanted:
        table[provider.id] = [{"id": model.id, "names": names(model), "prices": prices(model)} for model in provider.models]
json.dump({"version": version("genai-prices"), "providers": table}, sys.stdout)
"""


def package(wanted_version):
    """What the package says, read by a Python of its own."""
    with tempfile.TemporaryDirectory(prefix="tollgate-prices-") as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = os.path.join(folder, "bin", "python")
        name = f"genai-prices=={wanted_version}" if wanted_version else "genai-prices"
        subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", name], check=True)
        read = subprocess.run([python, "-c", READ, json.dumps(list(PROVIDERS))], check=True, capture_output=True, text=True)
    return json.loads(read.stdout)


def dollars(amount):
    """A price with at most six places, rounded up, as it is written."""
    rounded = amount.quantize(Decimal("0.000001"), rounding=ROUND_UP)
    text = f"{rounded:f}".rstrip("0").rstrip(".")
    return text or "0"


def entry(prices):
    """The row of a model, or None where it has no price that is ours to charge."""
    row, long, above = {}, {}, None
    for key, price in prices.items():
        name, base = RATES.get(key), Decimal(price["base"])
        if key in ("audio_hours", "input_audio_hours"):
            row["minute"] = max(row.get("minute", Decimal(0)), base / 60)
        elif key == "output_reasoning_mtok":
            row["output"] = max(row.get("output", Decimal(0)), base)
        elif name is not None:
            row[name] = max(row.get(name, Decimal(0)), base)
            if price["tiers"] and name in LONG:
                # Of several steps the first counts, at the highest price.
                start = min(start for start, _ in price["tiers"])
                above = start if above is None else min(above, start)
                long[name] = max(Decimal(tier) for _, tier in price["tiers"])
        elif key.endswith("_kpages") or key == "requests_kcount":
            return None
    if not any(row.values()):
        return None
    if "input" in row and "output" not in row and "audio_output" not in row and "image_output" not in row:
        row["output"] = Decimal(0)
    if "input" not in row and "minute" not in row and "characters" not in row:
        return None
    if long:
        for name in ("input", "output"):
            long.setdefault(name, row[name])
        row["long"] = {"above": above, **{name: long[name] for name in LONG if name in long}}
    return row


def higher(one, other):
    """The highest of each price; a price that one of them lacks is that of what is like it, so it is left out."""
    if one is None or other is None:
        return one or other
    row = {}
    for key in one:
        if key in other and key != "long":
            row[key] = max(one[key], other[key])
    for key in ("input", "output", "minute", "characters"):
        if key in one or key in other:
            row[key] = max(one.get(key, Decimal(0)), other.get(key, Decimal(0)))
    longs = [each["long"] for each in (one, other) if "long" in each]
    if longs:
        above = min(long["above"] for long in longs)
        keys = [key for key in LONG if all(key in long for long in longs)]
        row["long"] = {"above": above, **{key: max(max(long[key] for long in longs), row.get(key, Decimal(0))) for key in keys}}
    return row


def table(said):
    """Every name with its row, by provider."""
    rows, owner = {}, {}
    for provider, pattern in PROVIDERS.items():
        for model in said["providers"].get(provider, []):
            found = None
            for prices in model["prices"]:
                found = higher(found, entry(prices))
            # The names that the provider takes. (For OpenRouter the package also has many that other hosts use.)
            listed = model["names"] if provider != "openrouter" else [model["id"]]
            for name in listed if found else []:
                if re.match(pattern, name) and not NOT_SERVED.search(name) and not (DATED.search(name) and DATED.sub("", name) in model["names"]):
                    rows[name] = higher(rows.get(name), found)
                    owner.setdefault(name, provider)
    for name, row in EXTRA.items():
        rows[name], owner[name] = row, "openai"
    return rows, owner


def written(row):
    """A row as TOML, on one line."""
    def value(key, price):
        if key == "long":
            inner = [f"above = {price['above']}", *(value(name, amount) for name, amount in price.items() if name != "above")]
            return "long = { " + ", ".join(inner) + " }"
        return f'{key} = "{dollars(Decimal(price))}"'

    if row.get("free"):
        return "{ free = true }"
    order = [key for key in (*RATES.values(), "minute", "long") if key in row]
    return "{ " + ", ".join(value(key, row[key]) for key in order) + " }"


def page(said, today):
    """The whole file."""
    rows, owner = table(said)
    lines = [HEADER + f"#\n# As of {today}: genai-prices {said['version']}.\n"]
    for provider in PROVIDERS:
        names = sorted(name for name in rows if owner[name] == provider)
        lines.append(f"\n# {provider}\n")
        lines += [f"{json.dumps(name)} = {written(rows[name])}\n" for name in names]
    return "".join(lines)


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--check", action="store_true")
    flags.add_argument("--version")
    flags = flags.parse_args()
    fresh = page(package(flags.version), datetime.datetime.now(datetime.UTC).date())
    if not flags.check:
        with open(TABLE, "w", encoding="utf-8") as file:
            file.write(fresh)
        return
    with open(TABLE, encoding="utf-8") as file:
        kept = file.read()
    changed = [
        line
        for line in difflib.unified_diff(kept.splitlines(), fresh.splitlines(), lineterm="", n=0)
        if re.match(r'[+-]"', line)
    ]
    if changed:
        print(f"prices.toml differs from genai-prices in {len(changed)} lines (scripts/prices.py writes it anew):")
        print("\n".join(changed))
    else:
        print("prices.toml is what genai-prices says")


if __name__ == "__main__":
    main()

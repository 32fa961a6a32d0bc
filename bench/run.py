#!/usr/bin/env python3
"""`just bench`: measures Tollgate beside nginx and a Python sketch, and writes RESULTS.md and results.svg.

    bench/run.py [--quick] [--rounds N]     every row of the table (about 15 minutes; --quick: two)
    bench/run.py overshoot                  a budget for ten under 200 at once; 10,000 streams of chat and of responses cut at random
    bench/run.py endpoints [--quick]        CPU a request of every endpoint, beside nginx
    bench/run.py soak [--minutes N]         half an hour at half load with hang-ups
    bench/run.py growth [--users N --rows N] 1,000 users against 1,000,000, 100 rows of log against 10,000,000
    bench/run.py compare --with BINARY      this build against another one, in turns: CPU a request
    bench/run.py report                     the two files again, from bench/figures/

Each writes its figures to bench/figures/NAME.json and then the report.
"""

import argparse
import concurrent.futures
import contextlib
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import tempfile
import time
import urllib.request

import endpoints
import report
import rig
from rig import say

FIGURES = os.path.join(rig.HERE, "figures")
# What takes so long that it gets fewer requests: in all of 20,000 (or 4,000 streams), and how many a second.
SLOW = {"sketch": (1200, 160, 50), "portkey": (2000, 400, 50), "litellm": (400, 64, 20)}
# 64 events 10 ms apart: the first comes at once.
EVENTS, INTERVAL_MS = 64, 10


def keep(name, figures):
    """Writes figures and the report made of all."""
    os.makedirs(FIGURES, exist_ok=True)
    figures["machine"] = machine()
    with open(os.path.join(FIGURES, name + ".json"), "w", encoding="utf-8") as file:
        json.dump(figures, file, indent=1)
        file.write("\n")
    report.write()


def machine():
    """What it was measured on."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        models = {line.partition(":")[2].strip() for line in file if line.startswith("model name")}
    return {"day": time.strftime("%Y-%m-%d"), "cpu": ", ".join(sorted(models)), "cores": os.cpu_count(),
            "kernel": os.uname().release, "pinned": bool(rig.PINNED)}


@contextlib.contextmanager
def scratch():
    """A folder on the disk of the target directory (not a tmpfs: the flush is part of what is measured)."""
    os.makedirs(rig.WORK, exist_ok=True)
    folder = tempfile.mkdtemp(dir=rig.WORK)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def postgres():
    """A Postgres of our own, or nothing where there is none."""
    if not rig.Postgres.binaries():
        yield None
        return
    folder = tempfile.mkdtemp(prefix="tollgate-bench-", dir="/var/tmp")
    try:
        with rig.Postgres(folder).serve() as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def burn(target, **options):
    """A load, and what the target used of the CPU for it: seconds a thousand requests."""
    before = rig.cpu_seconds(target.pid) if target.pid else 0
    result = target.load(**options)
    time.sleep(0.1)
    if target.pid:
        result["cpu_s_per_1k"] = (rig.cpu_seconds(target.pid) - before) * 1000 / max(1, result["ok"])
    if result["ok"] != result["requests"] or result["unfinished"]:
        say(f"  {target.name}: {result['requests'] - result['ok']} failed, {result['unfinished']} unfinished: "
            f"{result['statuses']} {result['errors']}")
    return result


def chat(target, tokens, scale):
    """Whole answers, 64 at once, 1,000 users."""
    count = {"nginx": 40000, "direct": 40000}.get(target.name, 20000)
    count = SLOW.get(target.name, (count,))[0]
    return burn(target, tokens=tokens, requests=int(count * scale), concurrency=64)


def burst(target, tokens, scale):
    """Streams of 64 events as fast as they come, 16 at once."""
    count = SLOW[target.name][1] if target.name in SLOW else 4000
    return burn(target, tokens=tokens, requests=int(count * scale), concurrency=16, stream=True, events=EVENTS)


def paced(target, tokens, scale):
    """500 streams at once, an event every 10 ms."""
    count = 500 if target.name in SLOW else max(1000, int(3000 * scale))
    return burn(target, tokens=tokens, requests=count, concurrency=500, stream=True, events=EVENTS,
                interval_us=INTERVAL_MS * 1000, ramp_ms=(EVENTS - 1) * INTERVAL_MS)


def first_token(target, tokens, scale):
    """Open loop: 200 streams a second come, whatever becomes of those before. Some cannot do so many."""
    rate = SLOW[target.name][2] if target.name in SLOW else 200
    result = burn(target, tokens=tokens, rate=rate, seconds=max(3, 12 * scale), stream=True, events=16)
    result["rate"] = rate
    return result


def holds(target, tokens, scale):
    """How many a second get through, 256 at once: each is a hold and an end."""
    return burn(target, tokens=tokens, requests=int(20000 * scale), concurrency=256)


ROWS = {"chat": chat, "burst": burst, "paced": paced, "first_token": first_token}


def open_streams_mb(target, tokens):
    """Memory while a thousand streams are open: the most that was seen."""
    command = rig.load_command(target.url + target.path, tokens=tokens, requests=1000, concurrency=1000, stream=True,
                               events=EVENTS, interval_us=100_000, ramp_ms=1500)
    with rig.process(command, stdout=subprocess.DEVNULL) as child:
        most = 0
        while child.poll() is None:
            most = max(most, rig.memory_mb(target.pid))
            time.sleep(0.2)
    return most


def open_streams(name, targets, tokens, memory):
    """The memory of each with a thousand streams open, under this name. (Those that are slow cannot have so many.)"""
    for target in targets:
        if target.name not in SLOW:
            say(f"a thousand open streams: {target.name}")
            memory[target.name][name] = open_streams_mb(target, tokens)


def starts(target, times):
    """Milliseconds from the start of the process to the first ready answer."""
    took = []
    for _ in range(times):
        with target.serve():
            took.append(target.ready_ms)
    return took


def measure_all(args):
    """The whole table."""
    scale = args.scale or (0.15 if args.quick else 1)
    rounds = args.rounds or (1 if args.quick else 3)
    figures = {"rounds": [], "quick": args.quick, "scale": scale, "note": args.note, "memory": {}, "starts_ms": {}, "missing": {}, "flush_ms": [], "holds": []}
    with scratch() as folder, postgres() as server, contextlib.ExitStack() as running:
        upstream = running.enter_context(rig.Upstream(folder).serve())
        figures["postgres"] = server.version if server else None
        wanted = [rig.Direct(folder, upstream), rig.Nginx(folder, upstream), rig.Tollgate(folder, upstream),
                  rig.TollgateOnPostgres(folder, upstream, server), rig.Sketch(folder, upstream)]
        wanted += [kind(folder, upstream) for kind in (rig.LiteLlm, rig.Ferro, rig.Portkey)]
        figures["missing"] = {target.name: target.missing() for target in wanted if target.missing()}
        for name, why in figures["missing"].items():
            say(f"skipped: {name}: {why}")
        targets = [target for target in wanted if target.name not in figures["missing"]]
        tokens = upstream.tokens(1000)
        for target in targets[1:]:
            figures["starts_ms"][target.name] = starts(target, 3 if target.name in SLOW else 10)
        for target in targets[1:]:
            rig.forget_file(shutil.which(target.command()[0]))
        for target in targets:
            running.enter_context(target.serve())
        time.sleep(2)
        figures["memory"] = {target.name: {"idle_mb": rig.memory_mb(target.pid)} for target in targets[1:]}
        open_streams("fresh_mb", targets[1:], tokens, figures["memory"])
        for number in range(1, rounds + 1):
            figures["rounds"].append(measure_round(number, targets, tokens, scale))
            figures["flush_ms"].append(rig.flush_ms(folder))
            if server and "tollgate on postgres" not in figures["missing"]:
                figures["holds"].append(holds_on(server, targets, tokens, scale))
        open_streams("open_mb", targets[1:], tokens, figures["memory"])
        for target in targets[1:]:
            figures["memory"][target.name]["peak_mb"] = rig.memory_mb(target.pid, "VmHWM")
    keep("run", figures)


def measure_round(number, targets, tokens, scale):
    """Every row on every target, row by row, so that neighbours in the table are neighbours in time."""
    results = {}
    for row, measure in ROWS.items():
        for target in targets:
            if target.name in SLOW and row == "paced" and (number > 1 or scale < 1):
                continue    # half a minute, and nothing new
            burn(target, tokens=tokens, requests=100 if target.name in SLOW else 2000, concurrency=16)
            result = results.setdefault(row, {})[target.name] = measure(target, tokens, scale)
            cpu = f"{result['cpu_s_per_1k']:.3f} CPU-s/1k, " if "cpu_s_per_1k" in result else ""
            first = result["first_ms"] or {}
            say(f"round {number} {row}: {target.name}: {cpu}{result['per_second']:.0f}/s, "
                f"first p50 {first.get('p50')} ms, whole p50 {(result['whole_ms'] or {}).get('p50')} ms")
    return results


def holds_on(server, targets, tokens, scale):
    """Tollgate on Postgres as fast as it goes, and Postgres's own part of the work."""
    target = next(target for target in targets if target.name == "tollgate on postgres")
    before = rig.cpu_seconds(server.pid())
    result = holds(target, tokens, scale)
    result["postgres_cpu_s_per_1k"] = (rig.cpu_seconds(server.pid()) - before) * 1000 / max(1, result["ok"])
    say(f"holds on Postgres: {result['per_second']:.0f}/s")
    return result


# --- two builds beside each other ---

COMPARED = {"chat": chat, "burst": burst, "paced": paced}


def compare(args):
    """CPU a request of this build over that of another, in short turns, so that a noisy machine is noisy for both. Each
    turn is a ratio; its median counts. The other may be a script that starts a binary in another way."""
    if not args.other:
        raise SystemExit("say which binary to compare with: --with BINARY")
    ratios = {row: [] for row in COMPARED}
    with scratch() as folder, rig.Upstream(folder).serve() as upstream, contextlib.ExitStack() as running:
        tokens = upstream.tokens(1000)
        pair = [rig.Tollgate(os.path.join(folder, name), upstream) for name in ("this", "other")]
        pair[1].binary = os.path.abspath(args.other)
        for target in pair:
            running.enter_context(target.serve())
            burn(target, tokens=tokens, requests=5000, concurrency=64)
        for number in range(args.rounds or 10):
            for row, measure in COMPARED.items():
                used = {}
                # Whoever comes second finds the caches warm: they take turns at that too.
                for target in pair if number % 2 == 0 else reversed(pair):
                    used[target] = measure(target, tokens, args.scale or 0.25)["cpu_s_per_1k"]
                ratios[row].append(used[pair[0]] / used[pair[1]])
                say(f"turn {number + 1} {row}: {used[pair[0]]:.4f} against {used[pair[1]]:.4f}: {ratios[row][-1]:.3f}")
    for row, found in ratios.items():
        low, _, high = statistics.quantiles(found, n=4)
        say(f"{row}: {statistics.median(found):.3f} (half of the turns within {low:.3f} and {high:.3f})")


def every_endpoint(args):
    """CPU a request of every endpoint, beside nginx."""
    requests, rounds = (500, 1) if args.quick else (4000, args.rounds or 3)
    with scratch() as folder, rig.Upstream(folder).serve() as upstream:
        measured = list(endpoints.measure(upstream, folder, rounds, requests, burn))
    keep("endpoints", {"rounds": measured, "requests": requests})


# --- the overshoot test ---

RESPONSES = "/v1/responses"


def overshoot(args):
    """Cents over a budget, tokens served and not charged, rows without an end. All must be 0."""
    streams = 1000 if args.quick else 10_000
    with scratch() as folder, rig.Upstream(folder).serve() as upstream:
        figures = {"budget": budget(folder, upstream, 3 if args.quick else 20), "cut": cut(folder, upstream, streams),
                   "cut_responses": cut(folder, upstream, streams, RESPONSES)}
    keep("overshoot", figures)
    print(json.dumps(figures, indent=1))
    cuts = figures["cut"], figures["cut_responses"]
    if figures["budget"]["cents_overshot"] or any(part["tokens_not_charged"] or part["rows_without_end"] for part in cuts):
        raise SystemExit("overshot")


def rows_of(folder, sql):
    """Asks the ledger's file."""
    with contextlib.closing(sqlite3.connect(f"file:{folder}/ledger.db?mode=ro", uri=True)) as db:
        return db.execute(sql).fetchall()


def budget(folder, upstream, users):
    """200 requests at once, chats and responses, of a user whose budget is for ten. One costs 10,060 micro-dollars: a cent."""
    price, each = (2.5, 10), 1000
    cost = int(24 * price[0] + each * price[1])
    target = rig.Tollgate(os.path.join(folder, "budget"), upstream)
    target.limits = f'{{ per = "day", cost_usd = "{10 * cost / 1e6:.6f}" }}'
    through, over, statuses = [], 0, {}
    with target.serve():
        for user in range(users):
            tokens = upstream.tokens(1, first=user)
            def ask(path, tokens=tokens, user=user):
                return rig.load(target.url + path, tokens=tokens, first=user, requests=100, concurrency=100, events=each,
                                max_tokens=each, model="gpt-4o", delay_us=50_000)
            with concurrent.futures.ThreadPoolExecutor() as at_once:
                results = list(at_once.map(ask, [target.path, RESPONSES]))
            for status, count in [pair for result in results for pair in result["statuses"].items()]:
                statuses[status] = statuses.get(status, 0) + count
        for served in upstream.served()["users"]:
            spent = served["input_tokens"] * price[0] + served["output_tokens"] * price[1]
            over += max(0, spent - 10 * cost)
            through.append(served["requests"])
    charged = rows_of(target.folder, "select max(total) from (select sum(cost_micros) as total from requests group by user_id)")
    return {"users": users, "at_once": 200, "budget_micros": 10 * cost, "served_at_most": max(through),
            "served_at_least": min(through), "most_charged_micros": charged[0][0], "cents_overshot": over / 10_000,
            "statuses": statuses}


def cut(folder, upstream, streams, path="/v1/chat/completions", rate=400):
    """Streams whose callers hang up at a random moment: before the first byte, in the middle, near the end."""
    target = rig.Tollgate(os.path.join(folder, "cut" + path.replace("/", "-")), upstream)
    target.path = path
    urllib.request.urlopen(urllib.request.Request(upstream.url + "/forget", method="POST"), timeout=10).close()
    with target.serve():
        # The keys are fetched and the tokens known before: the callers are to be cut in the work, not at the door.
        target.load(tokens=upstream.tokens(1000), requests=1000, concurrency=64)
        result = target.load(tokens=upstream.tokens(1000), requests=streams, rate=rate, stream=True, events=32,
                             interval_us=4000, delay_us=5000, hang_up=1.0, hang_up_within_ms=180)
        deadline = time.monotonic() + 60
        open_rows = "select count(*) from requests where state = 'held'"
        while (upstream.served()["open"] or rows_of(target.folder, open_rows)[0][0]) and time.monotonic() < deadline:
            time.sleep(0.2)
    served = upstream.served()
    charged = {user: (count, tokens) for user, count, tokens in rows_of(
        target.folder, "select user_id, sum(state <> 'voided'), sum(input_tokens + output_tokens) from requests group by user_id")}
    short = over = 0
    for user in served["users"]:
        of_user = user["input_tokens"] + user["output_tokens"]
        _, paid = charged.get(user["id"], (0, 0))
        short += max(0, of_user - paid)
        over += max(0, paid - of_user)
    states = dict(rows_of(target.folder, "select state, count(*) from requests group by state"))
    return {"streams": streams, "hung_up": result["hung_up"], "whole": result["ok"], "statuses": result["statuses"],
            "errors": result["errors"], "reached_upstream": served["requests"],
            "tokens_served": served["input_tokens"] + served["output_tokens"], "tokens_not_charged": short,
            "tokens_charged_and_not_served": over, "rows": states,
            "rows_without_end": rows_of(target.folder, "select count(*) from requests where state = 'held' or ended_at is null")[0][0]}


# --- the soak ---

def soak(args):
    """Streams at a fixed rate for half an hour, a third of them left. Memory, descriptors and the file, every 10 s."""
    with scratch() as folder, rig.Upstream(folder).serve() as upstream:
        target = rig.Tollgate(folder, upstream)
        with target.serve():
            command = rig.load_command(target.url + target.path, tokens=upstream.tokens(1000), rate=args.rate,
                                       seconds=args.minutes * 60, stream=True, events=32, interval_us=5000,
                                       hang_up=0.33, hang_up_within_ms=200)
            samples, begun = [], time.monotonic()
            with rig.process(command, stdout=subprocess.PIPE, text=True) as child:
                while child.poll() is None:
                    samples.append(sample(target, time.monotonic() - begun))
                    if len(samples) % 6 == 0:
                        say(f"soak: {samples[-1]}")
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.wait(10)
                result = json.loads(child.stdout.read())
            time.sleep(3)
            samples.append(sample(target, time.monotonic() - begun))
            held = rows_of(target.folder, "select count(*) from requests where state = 'held'")[0][0]
    keep("soak", {"minutes": args.minutes, "rate": args.rate, "samples": samples, "load": result, "held_at_end": held})


def sample(target, seconds):
    """What is watched."""
    files = [os.path.join(target.folder, "ledger.db" + end) for end in ("", "-wal")]
    sizes = [os.path.getsize(file) if os.path.exists(file) else 0 for file in files]
    return {"seconds": round(seconds), "rss_mb": round(rig.memory_mb(target.pid), 1),
            "descriptors": len(os.listdir(f"/proc/{target.pid}/fd")), "db_bytes": sizes[0], "wal_bytes": sizes[1],
            "rows": rows_of(target.folder, "select count(*) from requests")[0][0]}


# --- growth ---

def growth(args):
    """The same load on a small ledger and on a large one, in turns."""
    sizes = {"small": (1000, 100), "large": (args.users, args.rows)}
    figures = {"sizes": sizes, "rounds": [], "pages": {}, "file_mb": {}}
    with scratch() as folder, rig.Upstream(folder).serve() as upstream:
        targets = {}
        for name, (users, rows) in sizes.items():
            target = targets[name] = rig.Tollgate(os.path.join(folder, name), upstream)
            with target.serve():
                pass    # makes the ledger
            begun = time.monotonic()
            seed(os.path.join(target.folder, "ledger.db"), users, rows)
            figures["file_mb"][name] = os.path.getsize(os.path.join(target.folder, "ledger.db")) / 1e6
            say(f"seeded {users} users, {rows} rows in {time.monotonic() - begun:.0f} s: {figures['file_mb'][name]:.0f} MB")
        with contextlib.ExitStack() as running:
            for target in targets.values():
                running.enter_context(target.serve())
            for name, target in targets.items():
                warm_up(target, upstream, sizes[name])
            # They are short, and the disk's own work behind them is not: more of them than elsewhere.
            for number in range(args.rounds or 9):
                figures["rounds"].append({name: growth_round(targets[name], upstream, sizes[name], number) for name in sizes})
            figures["pages"] = {name: pages(targets[name], upstream, sizes[name]) for name in sizes}
    keep("growth", figures)


def spread(upstream, size):
    """1,000 users, spread over all that there are."""
    step = size[0] // 1000
    return {"tokens": upstream.tokens(1000, step=step), "step": step, "concurrency": 64}


def warm_up(target, upstream, size):
    """Until the log of a large file has been written once from end to end: until then it grows, once in a server's life."""
    say(f"warming up: {size[0]} users, {size[1]} rows")
    target.load(requests=30_000, **spread(upstream, size))


def growth_round(target, upstream, size, number):
    """The cost of a request there."""
    options = spread(upstream, size)
    target.load(requests=2000, **options)
    result = burn(target, requests=15000, **options)
    say(f"growth round {number + 1}: {size[0]} users, {size[1]} rows: {result['cpu_s_per_1k']:.4f} CPU-s/1k")
    return result


def pages(target, upstream, size):
    """Milliseconds of `/api/me` and `/api/usage`, one after the other, of users spread over all."""
    step = size[0] // 100
    with open(upstream.tokens(100, step=step), encoding="utf-8") as file:
        tokens = file.read().split()
    told = {}
    for path in ("/api/me", "/api/usage"):
        took = []
        for token in tokens * 3:
            begun = time.perf_counter()
            if rig.get(target.url + path, token) is None:
                raise SystemExit(f"{path} fails")
            took.append((time.perf_counter() - begun) * 1000)
        took.sort()
        told[path] = {"p50": statistics.median(took), "p99": took[int(len(took) * 0.99)]}
    say(f"{size}: {told}")
    return told


SEED = """
insert into requests
with recursive n(i) as (select 0 union all select i + 1 from n where i + 1 < :rows)
select printf('%08x-%04x-7000-8000-%012x', at >> 16, at & 65535, i), printf('%08x-0000-4000-8000-%012x', u * 2654435761 % 4294967296, u),
       'bench', '/v1/chat/completions', 'gpt-4o-mini', 'openai', 'settled', '', 0, 400, 256, 214, 24, 0, 16, 0, 14,
       at, at + 900, 300, 'seed', 0
from (select i, i % :users as u, :from_ms + cast(i * (:span_ms * 1.0 / :rows) as integer) as at from n)
"""
WINDOWS = """
insert or ignore into window_sums (user_id, ends_at, per, starts_at, requests_used, tokens_used, micros_used)
with recursive n(i) as (select 0 union all select i + 1 from n where i + 1 < :users)
select printf('%08x-0000-4000-8000-%012x', i * 2654435761 % 4294967296, i), :ends, :per, :starts, :each, :each * 40, :each * 14
from n order by 1
"""


def seed(path, users, rows):
    """Rows of the last 90 days and the windows that they add up to, as if they had been served."""
    now = int(time.time() * 1000)
    day = 86_400_000
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        # Each page is written once, not into the log and then into the file.
        db.executescript("pragma journal_mode = off; pragma synchronous = off; pragma cache_size = -400000;")
        db.execute("begin")
        indexes = db.execute("select name, sql from sqlite_master where type = 'index' and sql is not null and tbl_name = 'requests'").fetchall()
        for name, _ in indexes:
            db.execute(f"drop index {name}")
        db.execute(SEED, {"rows": rows, "users": users, "from_ms": now - 90 * day, "span_ms": 89 * day})
        for _, sql in indexes:
            db.execute(sql)
        # What clock.rs has for the end of time.
        lifetime = 253_402_207_200_000
        known = db.execute("select max(ends_at) from window_sums where per = 'lifetime'").fetchone()[0]
        db.execute(WINDOWS, {"users": users, "ends": known or lifetime, "per": "lifetime", "starts": 0, "each": max(1, rows // users)})
        midnight = now - now % day
        db.execute(WINDOWS, {"users": users, "ends": midnight + day, "per": "day", "starts": midnight, "each": 0})
        db.execute("commit")
        db.execute("pragma journal_mode = wal").fetchall()


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="all", choices=["all", "endpoints", "overshoot", "soak", "growth", "compare", "report"])
    parser.add_argument("--quick", action="store_true", help="two minutes: one round, fewer requests")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--scale", type=float, help="the share of the full number of requests")
    parser.add_argument("--with", dest="other", metavar="BINARY", help="what `compare` compares with")
    parser.add_argument("--note", default="", help="a sentence for the head of the results")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, default=500, help="streams a second of the soak")
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=10_000_000)
    args = parser.parse_args()
    rig.end_on_sigterm()
    whats = {"all": measure_all, "endpoints": every_endpoint, "overshoot": overshoot, "soak": soak, "growth": growth, "compare": compare, "report": lambda _: report.write()}
    whats[args.what](args)


if __name__ == "__main__":
    main()

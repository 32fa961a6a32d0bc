"""RESULTS.md and results.svg, from the figures that run.py keeps in figures/. Tells; measures nothing."""

import html
import json
import math
import os
import statistics

HERE = os.path.dirname(os.path.abspath(__file__))
NAMES = {"direct": "direct (no proxy)", "nginx": "nginx `proxy_pass`", "tollgate": "**Tollgate**, SQLite",
         "tollgate on postgres": "**Tollgate**, Postgres", "sketch": "Python sketch"}
IDEAL_MS = 630
ROWS = [("chat", "Whole answers, 64 at once, 1,000 users"), ("burst", "Streams of 64 events in a burst, 16 at once"),
        ("paced", "500 streams at once, 64 events 10 ms apart")]


def figures(name):
    """What was kept, or `None`."""
    path = os.path.join(HERE, "figures", name + ".json")
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def write():
    """Both files."""
    run = figures("run")
    parts = ["# Results\n\nWritten by `bench/run.py`; what is measured, and how, is in [README.md](README.md). Medians, and the range over the "
             "rounds in brackets."]
    if run:
        parts += [head(run), "![CPU beside nginx](results.svg)", cpu_table(run), paced_table(run), first_table(run), memory_table(run),
                  postgres_part(run)]
    parts += [part for part in (endpoints_part(figures("endpoints")), growth_part(figures("growth")), overshoot_part(figures("overshoot")), soak_part(figures("soak"))) if part]
    with open(os.path.join(HERE, "RESULTS.md"), "w", encoding="utf-8") as file:
        file.write("\n\n".join(parts) + "\n")
    if run:
        with open(os.path.join(HERE, "results.svg"), "w", encoding="utf-8") as file:
            file.write(picture(run))


def head(run):
    """The machine and what was left out."""
    on = run["machine"]
    text = f"{on['day']}, {on['cores']} cores of {on['cpu']}, Linux {on['kernel']}, {len(run['rounds'])} rounds"
    text += "" if on["pinned"] else ", **not pinned**"
    text += f". **Shortened: {run['scale']:.0%} of the requests.**" if run["scale"] < 1 else "."
    if run.get("note"):
        text += " " + run["note"]
    return text + "".join(f"\nNot run: {name} ({why})." for name, why in sorted(run["missing"].items()))


def values(run, row, target, pick):
    """One figure of every round in which it was measured."""
    found = [pick(round_[row][target]) for round_ in run["rounds"] if target in round_.get(row, {})]
    return [value for value in found if value is not None]


def spread(found, form="{:.3f}"):
    """Median and range."""
    if not found:
        return "–"
    middle = form.format(statistics.median(found))
    return middle if len(found) < 2 else f"{middle} ({form.format(min(found))}–{form.format(max(found))})"


def targets(run, row):
    """In the order in which they were measured."""
    seen = {}
    for round_ in run["rounds"]:
        seen.update(dict.fromkeys(round_.get(row, {})))
    return list(seen)


def ratios(run, row, target):
    """× nginx, each round by its own nginx."""
    return [round_[row][target]["cpu_s_per_1k"] / round_[row]["nginx"]["cpu_s_per_1k"] for round_ in run["rounds"]
            if target in round_.get(row, {}) and "nginx" in round_[row] and "cpu_s_per_1k" in round_[row][target]]


def failures(run, row, target):
    """How many of all requests of a row went wrong."""
    return sum(round_[row][target]["requests"] - round_[row][target]["ok"] + round_[row][target]["unfinished"]
               for round_ in run["rounds"] if target in round_.get(row, {}))


def cpu_table(run):
    """CPU seconds a thousand, and beside nginx."""
    lines = ["## CPU\n", "Seconds of CPU (user and system, the whole process tree) a thousand requests.\n",
             "| | " + " | ".join(f"{title} | × nginx" for _, title in ROWS) + " | failed |",
             "|---|" + "---|" * (2 * len(ROWS) + 1)]
    for target in targets(run, "chat"):
        if target == "direct":
            continue
        cells = []
        for row, _ in ROWS:
            cells += [spread(values(run, row, target, lambda r: r.get("cpu_s_per_1k"))), spread(ratios(run, row, target), "{:.2f}")]
        failed = sum(failures(run, row, target) for row, _ in ROWS)
        lines.append(f"| {NAMES.get(target, target)} | " + " | ".join(cells) + f" | {failed} |")
    return "\n".join(lines)


def paced_table(run):
    """Whether streams are on time."""
    lines = [f"## 500 streams at once\n\nA stream takes {IDEAL_MS} ms if every event is on time.\n",
             "| | whole p50, ms | p99, ms | p50 late by | p99 late by |", "|---|---|---|---|---|"]
    for target in targets(run, "paced"):
        p50, p99 = (values(run, "paced", target, lambda r, at=at: (r["whole_ms"] or {}).get(at)) for at in ("p50", "p99"))
        late = [f"{(statistics.median(found) / IDEAL_MS - 1) * 100:.1f} %" if found else "–" for found in (p50, p99)]
        lines.append(f"| {NAMES.get(target, target)} | {spread(p50, '{:.0f}')} | {spread(p99, '{:.0f}')} | {late[0]} | {late[1]} |")
    return "\n".join(lines)


def first_table(run):
    """Time to the first token under an open loop, and what of it is the disk."""
    flush = {at: [flush[at] for flush in run["flush_ms"]] for at in ("p50", "p99")}
    lines = ["## Time to the first token\n\n200 streams a second in an open loop, from the moment at which each was due, in ms. Added: "
             f"beyond direct. The disk alone takes {spread(flush['p50'], '{:.2f}')} (p50), {spread(flush['p99'], '{:.2f}')} (p99) for a flush "
             "of 16 KiB, measured apart with nothing else running.\n",
             "| | p50 | p99 | added p50 | added p99 | p50 beyond the flush | p99 beyond the flush |", "|---|---|---|---|---|---|---|"]
    base = {at: values(run, "first_token", "direct", lambda r, at=at: r["first_ms"][at]) for at in ("p50", "p99")}
    for target in targets(run, "first_token"):
        cells, added_cells, beyond = [], [], []
        for at in ("p50", "p99"):
            found = values(run, "first_token", target, lambda r, at=at: (r["first_ms"] or {}).get(at))
            added = [value - direct for value, direct in zip(found, base[at])]
            cells.append(spread(found, "{:.2f}"))
            added_cells.append(spread(added, "{:.2f}") if target != "direct" else "")
            durable = target == "tollgate"
            beyond.append(spread([value - disk for value, disk in zip(added, flush[at])], "{:.2f}") if durable else "")
        rate = values(run, "first_token", target, lambda r: r["rate"])[0]
        name = NAMES.get(target, target) + (f" (at {rate} a second)" if rate != 200 else "")
        lines.append(f"| {name} | " + " | ".join(cells + added_cells + beyond) + " |")
    return "\n".join(lines)


def memory_table(run):
    """Memory and start."""
    lines = ["## Memory and start\n", "| | idle, MB | a thousand open streams, MB | the same after all loads | peak, MB | ready after, ms |",
             "|---|---|---|---|---|---|"]
    for target, memory in run["memory"].items():
        cells = [f"{memory[key]:.1f}" if key in memory else "–" for key in ("idle_mb", "fresh_mb", "open_mb", "peak_mb")]
        lines.append(f"| {NAMES.get(target, target)} | " + " | ".join(cells) + f" | {spread(run['starts_ms'].get(target, []), '{:.0f}')} |")
    return "\n".join(lines)


def postgres_part(run):
    """What goes through on Postgres."""
    if not run["holds"]:
        return "## Postgres\n\nNot run."
    rate = spread([result["per_second"] for result in run["holds"]], "{:.0f}")
    own = spread([result["cpu_s_per_1k"] for result in run["holds"]])
    theirs = spread([result["postgres_cpu_s_per_1k"] for result in run["holds"]])
    return (f"## Postgres\n\nPostgreSQL {run['postgres']} of its own on the same two cores, 256 requests at once: **{rate} holds a second** (each also "
            f"ended). CPU seconds a thousand: Tollgate {own}, Postgres {theirs}.")


def endpoints_part(run):
    """Every endpoint beside nginx."""
    if not run:
        return ""
    on = run["machine"]
    lines = [f"## Every endpoint\n\nSeconds of CPU a thousand requests, 64 at once, 1,000 users; {run['requests']:,} requests in each of "
             f"{len(run['rounds'])} rounds, {on['day']}. Streams have 16 events, a picture 64 KB, speech 32 KB, a file to transcribe 32 KB. Whole answers "
             "of one token or a hundred cost the same: what differs is how much is read, checked and written anew.\n",
             "| | nginx | **Tollgate**, SQLite | × nginx |", "|---|---|---|---|"]
    for name in run["rounds"][0]:
        theirs, ours = ([round_[name][target]["cpu_s_per_1k"] for round_ in run["rounds"]] for target in ("nginx", "tollgate"))
        ratio = [our / their for our, their in zip(ours, theirs)]
        lines.append(f"| {name} | {spread(theirs)} | {spread(ours)} | {spread(ratio, '{:.1f}')} |")
    return "\n".join(lines)


def growth_part(growth):
    """Small against large."""
    if not growth:
        return ""
    (small_users, small_rows), (users, rows) = growth["sizes"]["small"], growth["sizes"]["large"]
    of = {name: [round_[name]["cpu_s_per_1k"] for round_ in growth["rounds"]] for name in ("small", "large")}
    ratio = [large / small for small, large in zip(of["small"], of["large"])]
    lines = ["## Growth\n", "| | CPU-s a thousand requests | `/api/me` p50 / p99, ms | `/api/usage` p50 / p99, ms | file, MB |", "|---|---|---|---|---|"]
    for name, title in (("small", f"{small_users:,} users, {small_rows:,} rows"), ("large", f"{users:,} users, {rows:,} rows")):
        pages = [f"{growth['pages'][name][path]['p50']:.2f} / {growth['pages'][name][path]['p99']:.2f}" for path in ("/api/me", "/api/usage")]
        lines.append(f"| {title} | {spread(of[name], '{:.4f}')} | {pages[0]} | {pages[1]} | {growth['file_mb'][name]:.0f} |")
    lines.append(f"\nThe large one takes {spread(ratio, '{:.3f}')} × the CPU of the small one.")
    return "\n".join(lines)


def overshoot_part(overshoot):
    """The promises about money."""
    if not overshoot:
        return ""
    budget = overshoot["budget"]
    return (f"## Overshoot\n\n- {budget['at_once']} requests at once against a budget for ten, {budget['users']} users in turn: "
            f"**{budget['cents_overshot']:.2f} cents over** by the upstream's own count. At most ${budget['most_charged_micros'] / 1e6:.6f} of "
            f"${budget['budget_micros'] / 1e6:.6f} was spent; {budget['served_at_least']} to {budget['served_at_most']} requests were served (the last "
            "ones shorter, where a little was left), all others refused with 402.\n"
            + "\n".join(cut_part(overshoot[name], what) for name, what in CUTS.items() if name in overshoot))


CUTS = {"cut": "streams", "cut_responses": "streams of `/v1/responses`"}


def cut_part(cut, what):
    """What became of streams that were left."""
    return (f"- {cut['streams']:,} {what} with a moment to hang up chosen at random: {cut['hung_up']:,} were cut, {cut['whole']:,} had ended before. The "
            f"upstream served {cut['tokens_served']:,} tokens; **{cut['tokens_not_charged']} were not charged**, {cut['tokens_charged_and_not_served']} "
            f"were charged and not served. **{cut['rows_without_end']} rows without an end.**")


def soak_part(soak):
    """Does anything grow?"""
    if not soak or len(soak["samples"]) < 8:
        return ""
    samples, load = soak["samples"], soak["load"]
    quarter = len(samples) // 4
    early, late = samples[quarter:2 * quarter], samples[-quarter - 1:-1]
    mean = lambda rows, key: statistics.mean(row[key] for row in rows)  # noqa: E731
    first, middle, last = samples[quarter], samples[2 * quarter], samples[-1]
    per_row = (middle["db_bytes"] - first["db_bytes"]) / max(1, middle["rows"] - first["rows"])
    predicted = middle["db_bytes"] + per_row * (last["rows"] - middle["rows"])
    return (f"## Soak\n\n{soak['minutes']:g} minutes at {soak['rate']:g} streams a second (32 events, 5 ms apart), {load['hung_up']:,} of {load['requests']:,} "
            f"left by their callers; statuses {json.dumps(load['statuses'])}, errors {json.dumps(load['errors'])}; rows still held at the end: "
            f"{soak['held_at_end']}.\n\n"
            "| | second quarter | last quarter | after the end |\n|---|---|---|---|\n"
            f"| memory, MB | {mean(early, 'rss_mb'):.1f} | {mean(late, 'rss_mb'):.1f} | {last['rss_mb']:.1f} |\n"
            f"| descriptors | {mean(early, 'descriptors'):.0f} | {mean(late, 'descriptors'):.0f} | {last['descriptors']} |\n"
            f"| write-ahead log, MB | {mean(early, 'wal_bytes') / 1e6:.1f} | {mean(late, 'wal_bytes') / 1e6:.1f} | {last['wal_bytes'] / 1e6:.1f} |\n\n"
            f"The file: {last['db_bytes'] / 1e6:.1f} MB for {last['rows']:,} rows; {predicted / 1e6:.1f} MB were predicted from its growth in the second quarter "
            f"({per_row:.0f} bytes a row).")


def picture(run):
    """Bars of × nginx, on a logarithmic scale: one group a row of the table. Readable on light and dark."""
    bars = [(title, [(target, statistics.median(ratios(run, row, target))) for target in targets(run, row) if ratios(run, row, target)])
            for row, title in ROWS]
    left, width, high = 150, 470, 18
    most = max((value for _, group in bars for _, value in group), default=10)
    scale = width / math.log10(max(most, 10) * 1.3 / 0.7)
    height = 54 + sum(34 + len(group) * (high + 6) for _, group in bars)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {height}" font-family="system-ui, sans-serif" font-size="12" role="img" '
           'aria-label="CPU a request, as a multiple of nginx">',
           "<style>text{fill:#1f2328}.soft{fill:#656d76}.bar{fill:#9aa4af}.ours{fill:#1a7f5a}.line{stroke:#d0d7de}"
           "@media (prefers-color-scheme: dark){text{fill:#e6edf3}.soft{fill:#8d96a0}.bar{fill:#6e7681}.ours{fill:#3fb68b}.line{stroke:#30363d}}</style>",
           '<text x="10" y="20" font-size="14" font-weight="600">CPU a request, as a multiple of nginx (logarithmic; shorter is better)</text>',
           '<text x="10" y="37" class="soft">Tollgate: token check, three limits, a durable row and a log line for each request. nginx only forwards.</text>']
    for decade in range(0, int(math.log10(max(most, 10) * 1.3)) + 1):
        x = left + scale * math.log10(10 ** decade / 0.7)
        out.append(f'<line class="line" x1="{x:.1f}" y1="46" x2="{x:.1f}" y2="{height - 6}"/>')
    y = 50
    for title, group in bars:
        out.append(f'<text x="10" y="{y + 16}" font-weight="600">{html.escape(title)}</text>')
        y += 24
        for target, value in group:
            long = max(2, scale * math.log10(max(value, 0.72) / 0.7))
            kind = "ours" if target.startswith("tollgate") else "bar"
            out.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{html.escape(target)}</text>'
                       f'<rect class="{kind}" x="{left}" y="{y}" width="{long:.1f}" height="{high}" rx="3"/>'
                       f'<text x="{left + long + 6:.1f}" y="{y + 13}">{value:.1f} ×</text>')
            y += high + 6
        y += 10
    return "\n".join(out) + "\n</svg>\n"

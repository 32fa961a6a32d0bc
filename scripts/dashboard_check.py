"""The operator's dashboard in a real browser: what an operator would do, by mouse and by keyboard, on a ledger with nothing
in it and on one with 100,000 rows.

Started by dashboard.sh, which brings the browser's driver. The upstream is fake_openai.py, the server is the real binary;
nothing of the page is replaced. After every visit: no error in the console, nothing that the content policy stopped, no
request to another host, no serious finding of axe-core.
"""

import argparse
import contextlib
import decimal
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid

from playwright.sync_api import expect as page_expects
from playwright.sync_api import sync_playwright

from rig import Checks, Tollgate, end_on_sigterm, expect, fake_openai, free_port

KEY = "sk-canary-operator-key"
ADMIN = "an-operator-token-of-the-dashboard-check"
ROWS = 100_000
USERS = 2_400
# The picture of a page is small enough to be in a repository.
PICTURE_BYTES_MAX = 300_000
CONFIG = """
admin_bind = "127.0.0.1:{admin}"

[ceiling]
cost_usd_per_day = "50"

[[upstreams]]
name = "openai"
base_url = "{upstream}"
api_key_env = "OPENAI_API_KEY"
models = ["gpt-4o-mini", "gpt-4o", "gpt-5-mini", "gpt-6*"]
dialect = "openai"

[plans.free]
default = true
models = ["gpt-4o-mini", "gpt-5-mini", "gpt-4o"]
max_output_tokens = 1000
concurrent_requests = 20
limits = [
  {{ per = "minute", requests = 10 }},
  {{ per = "day", requests = 50 }},
  {{ per = "day", tokens = 60000 }},
  {{ per = "month", cost_usd = "8" }},
]

[plans.plus]
models = ["gpt-4o-mini", "gpt-5-mini", "gpt-4o"]
limits = [{{ per = "day", requests = 500 }}, {{ per = "month", cost_usd = "20" }}]

[plans.pro]
models = ["gpt-4o-mini", "gpt-5-mini", "gpt-4o"]
limits = [{{ per = "month", cost_usd = "100" }}]

[prompts.coach]
model = "gpt-4o"
system = "You are a patient running coach. Answer in at most five sentences, and never give medical advice."
plans = ["plus", "pro"]

[prompts.summarize]
model = "gpt-4o-mini"
system = "You summarise {{{{kind}}}} in three sentences, in {{{{language}}}}."
max_output_tokens = 300
"""
INSERT = """
insert into requests (id, user_id, plan, endpoint, model, upstream, state, flags, held_input_tokens, held_output_tokens,
  held_micros, input_tokens, cached_input_tokens, output_tokens, cost_micros, started_at, ended_at, ttft_ms, owner)
values (?, ?, ?, 'chat', ?, 'openai', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'seed')
"""
# What the writer makes of every user's first request. The end of time is clock.rs's.
LIFETIME = """
insert into windows (user_id, ends_at, per, starts_at, requests_used, tokens_used, micros_used)
select user_id, 253402207200000, 'lifetime', 0, count(*), sum(input_tokens + output_tokens), sum(cost_micros)
from requests where state in ('settled', 'lost') group by user_id
"""
# Micro-dollars a thousand tokens of input and output, about; the share of the requests.
MODELS = {"gpt-4o-mini": (150, 600, 55), "gpt-5-mini": (250, 2000, 35), "gpt-4o": (2500, 10000, 10)}


def seed(path):
    """100,000 requests of the last 95 days, more of them lately and by day, as if they had been served."""
    rng = random.Random(7)
    users = [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(USERS)]
    plans = {user: rng.choices(["free", "plus", "pro"], [80, 14, 6])[0] for user in users}
    now = int(time.time() * 1000)
    moments = []
    while len(moments) < ROWS:
        at = now - int(95 * 86_400_000 * (1 - rng.random() ** 0.6))
        if 6 <= at // 3_600_000 % 24 or rng.random() < 0.3:
            moments.append(at)
    rows = [row(rng, at, users[int(USERS * rng.random() ** 2.2)], plans) for at in sorted(moments)]
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.executemany(INSERT, rows)
        db.execute(LIFETIME)
        db.execute("update requests set endpoint = '/api/prompts/summarize' where substr(id, -1) in ('3', '7')")
    return users


def row(rng, at, user, plans):
    """One request: ids are UUIDv7, as the server makes them."""
    model = rng.choices(list(MODELS), [share for _, _, share in MODELS.values()])[0]
    sent, made = int(rng.lognormvariate(6.5, 1)), int(rng.lognormvariate(5.6, 0.8))
    state = rng.choices(["settled", "voided", "lost"], [975, 20, 5])[0]
    cost = (sent * MODELS[model][0] + made * MODELS[model][1]) * 12 // 1000
    key = uuid.UUID(int=at << 80 | 0x7 << 76 | rng.getrandbits(12) << 64 | 0x2 << 62 | rng.getrandbits(62))
    flags = "estimated" if rng.random() < 0.02 else ""
    ttft = int(rng.lognormvariate(6, 0.5))
    if state != "settled":
        ttft = None
    if state == "voided":
        sent, made, cost, flags = 0, 0, 0, ""
    end = at + rng.randint(900, 9000)
    return (str(key), user, plans[user], model, state, flags, sent, 1000, cost * 3, sent, sent // 4, made, cost, at, end, ttft)


class Look:
    """A browser's page at the dashboard, and everything it complains of."""

    def __init__(self, browser, url, axe, scheme="light", width=1280, height=800):
        self.url = url
        self.axe = axe
        self.complaints = []
        self.context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            reduced_motion="reduce",
            locale="en-GB",
            timezone_id="Europe/Berlin",
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.page.on("console", self.heard)
        self.page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))
        self.page.on("request", self.asked)
        # Told by the browser itself, whatever the page does with its own errors.
        self.page.add_init_script(
            "document.addEventListener('securitypolicyviolation', e => console.error('CSP: ' + e.violatedDirective + ' ' + e.blockedURI))"
        )

    def heard(self, message):
        """A line of the console."""
        if message.type in ("error", "warning"):
            self.complaints.append(f"console {message.type}: {message.text}")

    def asked(self, request):
        """A request of the page: to nobody but its own server."""
        if not request.url.startswith((self.url, "data:")):
            self.complaints.append(f"asks another host: {request.url}")

    def sign_in(self, token=ADMIN):
        """By keyboard alone: the field has the focus, Enter sends."""
        self.page.goto(self.url)
        page_expects(self.page.get_by_label("Admin token")).to_be_focused()
        self.page.keyboard.type(token)
        self.page.keyboard.press("Enter")
        self.heading("Overview")

    def go(self, route, heading):
        """Another page, by its address."""
        self.page.goto(f"{self.url}/#{route}")
        self.heading(heading)

    def heading(self, text):
        """The page's title is there, and what it loads has come."""
        page_expects(self.page.locator("h1")).to_contain_text(text)
        page_expects(self.page.locator("main [aria-busy]")).to_have_count(0)

    def is_clean(self, where):
        """Nothing was complained of, nothing is out of the picture, and axe-core finds nothing serious."""
        expect(f"complaints at {where}", self.complaints, [])
        room = self.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        expect(f"the page's width at {where}", room[0] <= room[1], True)
        # Not as a script of the page: the content policy would stop it, as it should.
        session = self.context.new_cdp_session(self.page)
        session.send("Runtime.evaluate", {"expression": self.axe})
        found = self.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
        told = [f"{one['impact']}: {one['id']} {one['nodes'][0]['html'][:200]}" for one in found]
        expect(f"axe-core at {where}", told, [])
        session.detach()

    def close(self):
        """Ends it, before its server goes."""
        self.context.close()


class Run:
    """One server, and the looks at it."""

    def __init__(self, checks, browser, gate, admin_url, options):
        self.checks, self.browser, self.gate, self.url = checks, browser, gate, admin_url
        self.pictures, self.axe = options.pictures, options.axe_source
        os.makedirs(self.pictures, exist_ok=True)

    @contextlib.contextmanager
    def look(self, **options):
        """A signed-in page."""
        look = Look(self.browser, self.url, self.axe, **options)
        try:
            look.sign_in()
            yield look
        finally:
            look.close()

    def picture(self, look, name, full=False):
        """A picture, small enough to keep."""
        path = os.path.join(self.pictures, f"{name}.png")
        look.page.screenshot(path=path, full_page=full, animations="disabled")
        expect(f"{name}.png is small", os.path.getsize(path) <= PICTURE_BYTES_MAX, True)

    def api(self, path):
        """What the API says of it."""
        request = urllib.request.Request(f"{self.url}/admin/{path}", headers={"Authorization": f"Bearer {ADMIN}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


def check_empty(run):
    """A new operator's first look."""

    def pages():
        with run.look() as look:
            page_expects(look.page.get_by_text("Send one, and it appears here")).to_be_visible()
            page_expects(look.page.get_by_text("No request was refused")).to_be_visible()
            look.is_clean("the empty overview")
            run.picture(look, "overview-empty")
            for route, heading, teaches in (
                ("/users", "Users", "No users yet"),
                ("/open", "Open requests", "Nothing is open"),
                ("/models", "Models", "gpt-6.1-terra"),
                ("/prompts", "Prompts", "You summarise {{kind}}"),
                ("/purchases", "Purchases", "No purchases yet"),
                ("/audit", "Audit", "No changes yet"),
            ):
                look.go(route, heading)
                page_expects(look.page.get_by_text(teaches)).to_be_visible()
                look.is_clean(f"the empty {route}")
            look.go(f"/users/{uuid.uuid4()}", "-")
            page_expects(look.page.get_by_text("the default plan")).to_be_visible()
            look.is_clean("a user never seen")

    def first_request():
        with run.look() as look:
            ask(run.gate, str(uuid.uuid4()))
            figure = look.page.locator(".figure", has_text="Requests today").locator("dd").first
            page_expects(figure).to_have_text("1")
            # What the figures tell of, the charts show: the answer began within milliseconds.
            page_expects(look.page.locator(".uplot canvas")).to_have_count(3)
            page_expects(look.page.locator(".nothing:visible")).to_have_count(0)
            look.is_clean("the overview after a request")
            look.page.get_by_role("button", name="Today", exact=True).click()
            page_expects(look.page.locator("figure", has_text="Time to first token").locator("tbody tr")).to_have_count(24)
            page_expects(look.page.locator(".nothing:visible")).to_have_count(0)

    def phone():
        with run.look(width=360, height=740, scheme="dark") as look:
            for route, heading in (("/", "Overview"), ("/users", "Users"), ("/open", "Open"), ("/models", "Models"), ("/prompts", "Prompts"), ("/purchases", "Purchases"), ("/audit", "Audit")):
                look.go(route, heading)
                look.is_clean(f"{route} of an empty ledger on a phone")

    run.checks.run("empty: every page says what would be there, and how it comes to be", pages)
    run.checks.run("empty: the first request shows by itself", first_request)
    run.checks.run("empty: on a phone, in the dark", phone)


def ask(gate, user, words=8, pace=0):
    """One request of a user's app, to its end."""
    content = f"Hello [[words={words}]] [[pace={pace}]]"
    body = json.dumps({"model": "gpt-4o-mini", "stream": True, "messages": [{"role": "user", "content": content}]})
    headers = {"Authorization": f"Bearer {gate.forge(sub=user)}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{gate.url}/api/chat", data=body.encode(), headers=headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        answer.read()


def check_full(run, users):
    """A day with 100,000 rows behind it."""
    user = users[3]
    run.checks.run("full: the overview shows what the API says, for each range", lambda: overview(run))
    run.checks.run("full: every page in light, in dark, and on a phone of 360 pixels", lambda: every_page(run, user))
    run.checks.run("full: search finds users by the beginning of an id, and pages go on", lambda: search(run, user))
    run.checks.run("full: a plan is changed, a user blocked and let in, a credit given, and the audit says so", lambda: steer(run, user))
    run.checks.run("full: every form fits on a phone, and a user is forgotten", lambda: forget(run, users[5]))
    run.checks.run("full: pausing stops the app's requests, and the page says so", lambda: pause(run))
    run.checks.run("full: what is open now shows while it is open", lambda: opened(run))
    run.checks.run("full: text of strangers is text", lambda: hostile(run))
    run.checks.run("full: a token that may only read sees everything and is offered no change", lambda: read_only(run, user))
    run.checks.run("full: by keyboard alone", lambda: keyboard(run))
    run.checks.run("full: a wrong token is told what to do, and signing out ends the session", lambda: sign_in_and_out(run))
    run.checks.run("full: the theme is chosen and kept", lambda: theme(run))


def dollars(text):
    """As the page writes a sum. What was spent since midnight may be a small one, which has more places."""
    sum_ = decimal.Decimal(text)
    is_plain = sum_ >= 1 or sum_ * 100 % 1 == 0
    return f"${sum_:,.{2 if is_plain else 4 if sum_ >= decimal.Decimal('0.001') else 6}f}"


def overview(run):
    """The head of the page, and each chart's table, against the API."""
    told = run.api("overview")
    with run.look() as look:
        page = look.page
        page_expects(page.locator(".figure.lead .figure-value")).to_contain_text(f"{dollars(told['ceiling']['used'])} of")
        for label, days in (("Today", 1), ("7 days", 7), ("30 days", 30), ("90 days", 90)):
            page.get_by_role("button", name=label, exact=True).click()
            look.heading("Overview")
            table = page.locator("figure", has_text="Requests").locator("table")
            page_expects(table.locator("tbody tr")).to_have_count(24 if days == 1 else days)
            cells = table.locator("tbody tr td:nth-child(2)").all_text_contents()
            shown = sum(int(cell.replace(",", "")) for cell in cells)
            today = told["today"]["day"]
            begin = page.evaluate("([day, days]) => new Date(Date.parse(day) - (days - 1) * 864e5).toISOString().slice(0, 10)", [today, days])
            usage = run.api(f"usage?by=model&from={begin}&to={today}&limit=500")
            expect(f"requests of {label}", shown, sum(row["requests"] for row in usage["rows"]))
            look.is_clean(f"the overview of {label}")
        page_expects(page.locator(".uplot canvas")).to_have_count(3)
        page.get_by_role("button", name="30 days").click()
        look.heading("Overview")
        drawn = page.locator(".plot canvas").first.evaluate(
            "c => { const p = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;"
            " for (let i = 3; i < p.length; i += 4) n += p[i] > 200; return n / (c.width * c.height); }"
        )
        expect("the chart has ink", drawn > 0.02, True)
        page.locator(".plot .u-over").first.hover()
        page_expects(page.locator(".tip:visible").first).to_contain_text("Spend a day")


def every_page(run, user):
    """The pictures of the documentation are taken here."""
    for scheme, width, height in (("light", 1280, 800), ("dark", 1280, 800), ("light", 360, 740), ("dark", 360, 740)):
        kind = f"{scheme}{'-phone' if width < 700 else ''}"
        with run.look(scheme=scheme, width=width, height=height) as look:
            look.page.get_by_role("button", name="30 days").click()
            look.heading("Overview")
            look.is_clean(f"overview {kind}")
            run.picture(look, f"overview-{kind}", full=width > 700)
            for route, heading, name in (
                ("/users", "Users", "users"),
                (f"/users/{user}", user[:8], "user"),
                ("/open", "Open requests", "open"),
                ("/models", "Models", "models"),
                ("/prompts", "Prompts", "prompts"),
                ("/purchases", "Purchases", "purchases"),
                ("/audit", "Audit", "audit"),
            ):
                look.go(route, heading)
                look.is_clean(f"{name} {kind}")
                if name == "user" or (name in ("users", "models") and kind == "light"):
                    run.picture(look, f"{name}-{kind}")


def search(run, user):
    """The list, its order, its pages."""
    with run.look() as look:
        look.go("/users", "Users")
        page_expects(look.page.locator("tbody tr")).to_have_count(50)
        look.page.get_by_role("button", name="Show more").click()
        page_expects(look.page.locator("tbody tr")).to_have_count(100)
        expect("no user twice", len(set(look.page.locator("tbody a").all_text_contents())), 100)
        look.page.get_by_role("button", name="Latest").click()
        look.heading("Users")
        look.page.get_by_label("Search by id").fill(user[:9])
        page_expects(look.page.locator("tbody tr")).to_have_count(1)
        look.page.get_by_label("Search by id").fill("zz")
        page_expects(look.page.get_by_text("No id looks like this")).to_be_visible()
        stranger = str(uuid.uuid4())
        look.page.get_by_label("Search by id").fill(stranger)
        look.page.keyboard.press("Enter")
        look.heading(stranger[:8])
        look.is_clean("the search")


def steer(run, user):
    """Every change that the page offers, and what the API and the audit say then."""
    with run.look() as look:
        page = look.page
        look.go(f"/users/{user}", user[:8])
        page.get_by_role("button", name="Change plan").click()
        look.is_clean("the dialog of the plan")
        page.get_by_label("Plan", exact=True).fill("nothing-of-that-name")
        refused = len(look.complaints)
        page.get_by_role("button", name="Set plan").click()
        page_expects(page.locator("dialog .problem")).to_be_visible()
        # The browser itself notes the refusal that was asked for.
        expect("only that refusal", [re.search(r"status of 4\d\d", line) is not None for line in look.complaints[refused:]], [True])
        look.complaints.clear()
        page.get_by_label("Plan", exact=True).fill("plus")
        page.get_by_label("Until").fill("2099-01-31T12:00")
        page.get_by_role("button", name="Set plan").click()
        page_expects(page.locator(".badges")).to_contain_text("plus")
        page_expects(page.locator(".badges")).to_contain_text("2099")
        head = run.api(f"users/{user}")["user"]
        expect("the plan", (head["plan"], head["plan_source"], head["plan_until"][:16]), ("plus", "local", "2099-01-31T11:00"))

        page_expects(page.get_by_text("Why: plus: given by an operator until 2099-01-31T11:00:00Z; without it")).to_be_visible()

        page.get_by_role("button", name="Give credits").click()
        page.get_by_label("Amount").fill("2.50")
        page.locator("dialog").get_by_role("button", name="Give credits").click()
        page_expects(page.locator("section", has_text="Credits").locator("td", has_text="operator")).to_be_visible()
        expect("the credits", run.api(f"users/{user}")["credit_balance"]["remaining"], "2.500000")

        page.get_by_role("button", name="Raise a limit").click()
        page.get_by_label("Limit", exact=True).select_option(label="Requests a day")
        page.get_by_label("Amount").fill("7")
        page.locator("dialog").get_by_role("button", name="Raise", exact=True).click()
        page_expects(page.locator("section", has_text="Raised limits").locator("td", has_text="+7")).to_be_visible()
        day = [limit for limit in run.api(f"users/{user}")["limits"] if (limit["per"], limit["unit"]) == ("day", "requests")]
        expect("the limit that was raised", day[0]["limit"], 507)

        page.get_by_role("button", name="Block").click()
        page.locator("dialog").get_by_role("button", name="Block").click()
        page_expects(page.locator(".badges")).to_contain_text("blocked")
        expect("blocked", run.api(f"users/{user}")["user"]["blocked"], True)
        page.get_by_role("button", name="Unblock").click()
        page_expects(page.locator(".badges")).not_to_contain_text("blocked")

        page.get_by_role("button", name="Change plan").click()
        page.get_by_label("Take the plan back").check()
        page.get_by_role("button", name="Set plan").click()
        page_expects(page.locator(".badges")).not_to_contain_text("set by an operator")
        look.is_clean("a user after the changes")

        look.go("/audit", "Audit")
        lines = page.locator("section", has_text="Changes").locator("tbody tr")
        expect("lines of the audit", lines.count() >= 5, True)
        page_expects(lines.filter(has_text="→ plus")).not_to_have_count(0)
        look.is_clean("the audit")


def forget(run, user):
    """The forms fit on a phone; and nothing is left of a user who is forgotten."""
    with run.look(width=360, height=740) as look:
        page = look.page
        look.go(f"/users/{user}", user[:8])
        for name in ("Give credits", "Raise a limit", "Forget"):
            page.get_by_role("button", name=name).click()
            look.is_clean(f"the dialog of {name} on a phone")
            page.locator("dialog").get_by_role("button", name="Cancel").click()
        page.get_by_role("button", name="Forget").click()
        page.locator("dialog").get_by_role("button", name="Forget").click()
        page_expects(page.get_by_text("No requests yet")).to_be_visible()
        left = run.api(f"users/{user}")
        expect("what is left of the user", (left["month"]["requests"], left["grants"]), (0, []))
        look.is_clean("a user who was forgotten")


def pause(run):
    """Everybody is refused while it lasts."""
    with run.look() as look:
        page = look.page
        page.get_by_role("button", name="Pause all requests").click()
        page.get_by_label("Reason").fill("a key leaked")
        page.locator("dialog").get_by_role("button", name="Pause").click()
        page_expects(page.locator(".banner")).to_contain_text("a key leaked")
        expect("paused", run.api("overview")["paused"], "a key leaked")
        look.is_clean("the overview while paused")
        run.picture(look, "overview-paused")
        page.get_by_role("button", name="Resume").click()
        page_expects(page.locator(".banner")).to_have_count(0)
        expect("resumed", run.api("overview")["paused"], None)
        look.is_clean("the overview after the pause")


def opened(run):
    """A stream that takes its time, of somebody with everything left."""
    user = str(uuid.uuid4())
    caller = threading.Thread(target=ask, args=(run.gate, user, 60, 250))
    caller.start()
    try:
        with run.look() as look:
            look.go("/open", "Open requests")
            line = look.page.locator("tbody tr", has_text=user)
            page_expects(line).to_have_count(1)
            page_expects(line).to_contain_text("gpt-4o-mini")
            run.picture(look, "open")
            look.is_clean("what is open")
            page_expects(line).to_have_count(0)
            page_expects(look.page.get_by_text("Nothing is open")).to_be_visible()
    finally:
        caller.join()


def hostile(run):
    """A reason is what somebody typed; an address is what somebody sent."""
    attack = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    with run.look() as look:
        page = look.page
        page.get_by_role("button", name="Pause all requests").click()
        page.get_by_label("Reason").fill(attack)
        page.locator("dialog").get_by_role("button", name="Pause").click()
        page_expects(page.locator(".banner q")).to_have_text(attack)
        page.get_by_role("button", name="Resume").click()
        page_expects(page.locator(".banner")).to_have_count(0)
        look.go("/audit", "Audit")
        page_expects(page.locator("td", has_text="<script>").first).to_be_visible()
        look.is_clean("the audit with an attack in it")
        page.goto(f"{run.url}/#/users/%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E")
        page_expects(page.locator("h1")).to_contain_text("<img src=x")
        page_expects(page.locator(".problem")).to_contain_text("UUID")
        expect("elements that text became", page.locator("main img, main script").count(), 0)
        expect("the title", "owned" in page.title(), False)


def read_only(run, user):
    """A made token of scope read."""
    told = run.gate.run("admin-token", "create", "colleague", "--scope", "read")
    token = re.search(r"tga_\S+", told).group(0)
    look = Look(run.browser, run.url, run.axe)
    try:
        look.sign_in(token)
        page_expects(look.page.get_by_text("read only")).to_be_visible()
        expect("a button that pauses", look.page.get_by_role("button", name="Pause all requests").count(), 0)
        look.go(f"/users/{user}", user[:8])
        page_expects(look.page.get_by_text("This token may only read.")).to_be_visible()
        expect("buttons that change", look.page.get_by_role("button", name=re.compile("plan|credit|limit|[Bb]lock|Forget")).count(), 0)
        look.go("/audit", "Audit")
        page_expects(look.page.locator("td", has_text="colleague").first).to_be_visible()
        look.is_clean("the audit for a reader")
    finally:
        look.close()


def keyboard(run):
    """Tab, Enter and Escape, and nothing else; whoever has the focus can be seen."""
    with run.look() as look:
        page = look.page
        page.keyboard.press("Tab")
        for _ in range(40):
            label = page.evaluate("document.activeElement.textContent.trim() || document.activeElement.ariaLabel")
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            expect(f"the outline of {label!r}", outline != "none", True)
            if label == "Users":
                break
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        look.heading("Users")
        page_expects(page.locator("h1")).to_be_focused()
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.matches('td a')"):
                break
        page.keyboard.press("Enter")
        page_expects(page.get_by_role("button", name="Change plan")).to_be_visible()
        page.get_by_role("button", name="Block").focus()
        page.keyboard.press("Enter")
        page_expects(page.locator("dialog")).to_be_visible()
        page.keyboard.press("Escape")
        page_expects(page.locator("dialog")).to_have_count(0)
        page_expects(page.get_by_role("button", name="Block")).to_be_focused()
        page.keyboard.press("Control+Home")
        page.locator(".skip").focus()
        page_expects(page.locator(".skip")).to_be_in_viewport()
        page.keyboard.press("Enter")
        page_expects(page.locator("main")).to_be_focused()
        look.is_clean("after the keyboard")


def sign_in_and_out(run):
    """The session's two ends."""
    look = Look(run.browser, run.url, run.axe)
    try:
        look.page.goto(run.url)
        look.is_clean("the sign-in page")
        run.picture(look, "sign-in")
        look.page.get_by_label("Admin token").fill("wrong")
        look.page.keyboard.press("Enter")
        page_expects(look.page.locator(".problem")).to_contain_text("not an admin token")
        expect("only the refusal that was asked for", ["401" in line for line in look.complaints], [True])
        look.complaints.clear()
        # By plain http from another machine a browser keeps no `Secure` cookie: the token is right, and who is signed in is nobody.
        nobody = {"status": 401, "json": {"error": {"message": "No session.", "code": "unauthorized"}}}

        def answered(route):
            return route.fulfill(**nobody) if route.request.method == "GET" else route.continue_()

        look.page.route("**/admin/session", answered)
        look.page.get_by_label("Admin token").fill(ADMIN)
        look.page.keyboard.press("Enter")
        page_expects(look.page.locator(".problem")).to_contain_text("HTTPS or localhost")
        look.page.unroute("**/admin/session")
        look.complaints.clear()
        look.context.clear_cookies()
        look.sign_in()
        cookies = look.context.cookies()
        expect("the cookie's guards", [(one["httpOnly"], one["sameSite"]) for one in cookies], [(True, "Strict")])
        look.page.get_by_role("button", name="Sign out").click()
        page_expects(look.page.get_by_text("You are signed out.")).to_be_visible()
        expect("cookies", look.context.cookies(), [])
        look.is_clean("after signing out")
    finally:
        look.close()


def theme(run):
    """Chosen over what the system says, and there before the first paint of the next visit."""
    with run.look() as look:
        back = "getComputedStyle(document.body).backgroundColor"
        light = look.page.evaluate(back)
        button = look.page.get_by_role("button", name=re.compile("^Theme"))
        button.click()
        button.click()
        page_expects(button).to_have_attribute("aria-label", re.compile("Dark"))
        dark = look.page.evaluate(back)
        expect("another background", light != dark, True)
        look.page.reload()
        look.heading("Overview")
        expect("kept", look.page.evaluate(back), dark)
        look.is_clean("the chosen theme")


def check_outage(checks, browser, gate, admin_url, options):
    """The server goes and comes back: the page says so, and asks to sign in again (sessions are kept in memory)."""
    look = Look(browser, admin_url, options.axe_source)
    try:
        with gate.serve():
            look.sign_in()
            page_expects(look.page.locator(".state")).to_have_text("Live")
        page_expects(look.page.locator(".state")).to_contain_text("Connection lost")
        with gate.serve():
            page_expects(look.page.get_by_label("Admin token")).to_be_visible(timeout=40_000)
            page_expects(look.page.get_by_text("The session is over")).to_be_visible()
        checks.tell("an outage is said, and what to do after it")
    except (AssertionError, Exception) as error:  # noqa: BLE001 - any failure is a failed check
        checks.tell("an outage is said, and what to do after it", f"{type(error).__name__}: {error}")
    finally:
        look.close()


@contextlib.contextmanager
def server(binary, rows):
    """A server with its upstream, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="tollgate-dashboard-") as folder, fake_openai(folder, KEY) as (upstream, _):
        admin = free_port()
        config = CONFIG.format(admin=admin, upstream=upstream)
        gate = Tollgate(binary, folder, config, {"OPENAI_API_KEY": KEY, "TOLLGATE_ADMIN_TOKEN": ADMIN})
        gate.run("migrate")
        users = seed(os.path.join(folder, "data", "tollgate.db")) if rows else []
        yield gate, f"http://127.0.0.1:{admin}", users


def main():
    """Runs everything; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--axe", required=True, help="axe-core's script")
    parser.add_argument("--pictures", default="target/dashboard/pictures", help="where pictures go")
    options = parser.parse_args()
    with open(options.axe, encoding="utf-8") as file:
        options.axe_source = file.read()
    end_on_sigterm()
    # A busy machine is slow, not wrong.
    page_expects.set_options(timeout=30_000)
    checks = Checks()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        raise SystemExit("there is no Chromium: apt-get install chromium")
    print(subprocess.run([chromium, "--version"], capture_output=True, text=True, check=False).stdout.strip(), flush=True)
    with sync_playwright() as playwright:
        # Root, as in containers, has no sandbox; the only pages opened are those of this repository.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        with server(options.binary, 0) as (gate, url, _):
            with gate.serve():
                check_empty(Run(checks, browser, gate, url, options))
            check_outage(checks, browser, gate, url, options)
        with server(options.binary, ROWS) as (gate, url, users), gate.serve():
            check_full(Run(checks, browser, gate, url, options), users)
        browser.close()
    return checks.close()


if __name__ == "__main__":
    sys.exit(main())

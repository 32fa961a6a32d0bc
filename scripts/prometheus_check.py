"""What `scripts/prometheus-check.sh` does once the rules are checked: starts Tollgate, an upstream and Prometheus, makes
traffic, and asks Prometheus what it saw. It needs nothing but Python's standard library and Debian's prometheus."""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request

from rig import Checks, Tollgate, end_on_sigterm, expect, fake_openai, free_port, process, wait_for

HERE = os.path.dirname(os.path.abspath(__file__))
DEPLOY = os.path.join(HERE, "..", "deploy")
ADMIN_TOKEN = "an-operator-of-the-prometheus-check"
# What exists only where there is a directory, keys to fetch, a store or a model that is shut down soon, none of which this rig has.
ELSEWHERE = {
    "tollgate_outbox_waiting",
    "tollgate_outbox_oldest_seconds",
    "tollgate_outbox_given_up",
    "tollgate_jwks_age_seconds",
    "tollgate_directory_lookups_total",
    "tollgate_model_days_left",
    "tollgate_store_events_total",
    "tollgate_store_last_event_timestamp_seconds",
}

CONFIG = """
admin_bind = "127.0.0.1:{admin}"
[ceiling]
cost_usd_per_day = "0.05"
[[upstreams]]
name = "openai"
base_url = "{upstream}"
models = ["gpt-*"]
[plans.free]
default = true
models = ["gpt-4o-mini"]
max_output_tokens = 64
limits = [{{ per = "day", requests = 1000 }}]
[prices."gpt-4o-mini"]
input = "1"
output = "100"
"""


class Prometheus:
    """A server of one test's own."""

    def __init__(self, folder, admin):
        self.port = free_port()
        self.folder = folder
        rules = os.path.abspath(os.path.join(DEPLOY, "prometheus", "alerts.yml"))
        self.config = os.path.join(folder, "prometheus.yml")
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(
                "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
                f"rule_files: [{json.dumps(rules)}]\n"
                "scrape_configs:\n"
                "  - job_name: tollgate\n"
                f"    static_configs: [{{targets: ['127.0.0.1:{admin}']}}]\n"
            )

    @contextlib.contextmanager
    def serve(self):
        """Serving, from ready to stopped."""
        with open(os.path.join(self.folder, "prometheus.log"), "w", encoding="utf-8") as log:
            command = [
                "prometheus",
                f"--config.file={self.config}",
                f"--storage.tsdb.path={os.path.join(self.folder, 'tsdb')}",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ]
            with process(command, stdout=log, stderr=log):
                wait_for("prometheus", 30, lambda: get(f"http://127.0.0.1:{self.port}/-/ready") is not None)
                yield self

    def ask(self, path, **query):
        """`data` of an answer of its API."""
        text = get(f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}")
        answer = json.loads(text or "{}")
        if answer.get("status") != "success":
            raise AssertionError(f"{path} {query}: {answer or 'no answer, or an error'}")
        return answer["data"]

    def firing(self):
        """The names of alerts that fire."""
        return {alert["labels"]["alertname"] for alert in self.ask("alerts")["alerts"] if alert["state"] == "firing"}


def get(url):
    """The body of a 200, or nothing."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, OSError):
        return None


def chat(tollgate, token, words=20):
    """The status of one request."""
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": f"Hello [[words={words}]]"}]}
    request = urllib.request.Request(tollgate.url + "/v1/chat/completions", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as refusal:
        return refusal.code


def expressions():
    """Every query of the dashboard and of the rules, by where it stands."""
    with open(os.path.join(DEPLOY, "grafana", "tollgate.json"), encoding="utf-8") as file:
        dashboard = json.load(file)
    found = {}
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            text = target["expr"].replace("$__rate_interval", "1m").replace('"$job"', '".+"')
            found[f"panel {panel['title']!r} {target['refId']}"] = text
    with open(os.path.join(DEPLOY, "prometheus", "alerts.yml"), encoding="utf-8") as file:
        rules = file.read()
    for alert, block in re.findall(r"- alert: (\w+)\n(.*?)(?=\n      - alert: |\Z)", rules, re.S):
        expr = re.search(r"expr: \|\n(.*?)\n        for:|expr: ([^|\n][^\n]*)", block, re.S)
        found[f"alert {alert}"] = expr.group(1) or expr.group(2)
    return found


def names(expression):
    """The metrics that a query names."""
    return set(re.findall(r"\b(?:tollgate|process)_\w+", re.sub(r'"[^"]*"', '""', expression)))


def metric_names(page):
    """The samples that are on the page."""
    return {re.split(r"[ {]", line, maxsplit=1)[0] for line in page.splitlines() if line and line[0] != "#"}


def check_names(prometheus, page):
    """Every metric that is named exists, and every query is one."""
    there = metric_names(page)
    wanted = expressions()
    if len(wanted) < 20:
        raise AssertionError(f"only {len(wanted)} queries were found: this script looks in the wrong place")
    for where, expression in wanted.items():
        missing = names(expression) - there - ELSEWHERE
        expect(f"metrics of {where} that are not in /metrics", missing, set())
        prometheus.ask("query", query=expression)
    source = "".join(path.read_text(encoding="utf-8") for path in pathlib.Path(HERE, "..", "src", "observe", "metrics").glob("*.rs"))
    for name in ELSEWHERE:
        base = name.removesuffix("_total").removesuffix("_seconds")
        if f'"{base}"' not in source and f'"{name}"' not in source:
            raise AssertionError(f"{name} is named, and the sources write no such metric")


def check_panels(prometheus):
    """What there is traffic for has something to show."""
    for where, expression in expressions().items():
        if where.startswith("panel") and not names(expression) & ELSEWHERE:
            shown = prometheus.ask("query", query=expression)["result"]
            if not shown and "> 0" not in expression:
                raise AssertionError(f"{where} shows nothing: {expression}")


def run(binary, folder):
    """All checks."""
    checks = Checks()
    admin = free_port()
    with contextlib.ExitStack() as open_things:
        upstream, _ = open_things.enter_context(fake_openai(folder, "sk-upstream"))
        env = {"OPENAI_API_KEY": "sk-upstream", "TOLLGATE_ADMIN_TOKEN": ADMIN_TOKEN}
        tollgate = Tollgate(binary, folder, CONFIG.format(admin=admin, upstream=upstream).lstrip(), env)
        open_things.enter_context(tollgate.serve())
        prometheus = open_things.enter_context(Prometheus(folder, admin).serve())
        is_read = {"query": 'up{job="tollgate"} == 1'}
        wait_for("Prometheus reads Tollgate", 20, lambda: prometheus.ask("query", **is_read)["result"])
        checks.run("no alert fires before anything happened", lambda: expect("firing", prometheus.firing(), set()))

        page = get(f"http://127.0.0.1:{admin}/metrics")
        command = ["promtool", "check", "metrics"]
        linted = subprocess.run(command, input=older_format(page), text=True, capture_output=True, check=False)
        said = linted.stdout + linted.stderr if linted.returncode else None
        checks.tell("promtool finds nothing to say about the page", said)
        token = tollgate.token()
        checks.run("a request is served", lambda: expect("status", chat(tollgate, token), 200))
        checks.run("every metric that is named exists, and every query is one", lambda: check_names(prometheus, page))

        def spend():
            # What is set aside for a request is more than it costs, so the ceiling is reached a little below itself.
            statuses = (chat(tollgate, token) for _ in range(80))
            if 503 not in statuses:
                raise AssertionError("the ceiling was not reached")

        checks.run("the ceiling is reached", spend)
        near = "TollgateSpendNearCeiling"
        checks.run("the alert about it fires", lambda: wait_for(near, 20, lambda: near in prometheus.firing()))
        checks.run("the panels have something to show", lambda: check_panels(prometheus))
    return checks.close()


def older_format(page):
    """The page without what only OpenMetrics has, for the linter, which knows the older format alone."""
    lines = [line for line in page.splitlines() if not line.startswith(("# UNIT", "# EOF"))]
    text = "\n".join(lines) + "\n"
    # The older format names a counter with its suffix, and has no info.
    text = re.sub(r"^# (HELP|TYPE) (\w+)(.*)$", lambda found: older(text, found), text, flags=re.M)
    return text


def older(text, found):
    """One line of a family's head as the older format has it."""
    word, name, rest = found.groups()
    kind = re.search(rf"^# TYPE {name} (\w+)$", text, re.M).group(1)
    suffix = {"counter": "_total", "info": "_info"}.get(kind, "")
    return f"# {word} {name}{suffix}{rest.replace(' info', ' gauge') if word == 'TYPE' else rest}"


if __name__ == "__main__":
    end_on_sigterm()
    with tempfile.TemporaryDirectory() as scratch:
        sys.exit(run(sys.argv[1], scratch))

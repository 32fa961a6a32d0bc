// The first page: today against the ceiling, what happened over time, where the money went, and how well it runs.

import { api, errorBox, firstRequest, known } from "./api.js";
import { ask, card, empty, field, fill, h, table, toast } from "./dom.js";
import { barList, limitBar, timeChart } from "./charts.js";
import * as f from "./format.js";

const RANGES = [["today", "Today", 1], ["7d", "7 days", 7], ["30d", "30 days", 30], ["90d", "90 days", 90]];
const AGAIN_MS = 60_000;
const BREAKER = { open: "failed lately, tried last", half_open: "failed lately, tried again now" };

const REFUSED = {
  quota_exceeded: "a limit a day, month or period was reached",
  rate_limited: "a limit a minute or hour was reached",
  too_many_concurrent: "more open requests than the plan has",
  answer_gone: "sent before with the same Idempotency-Key",
  idempotency_key_reused: "an Idempotency-Key of another request",
  token_expired: "the app must refresh its token",
  missing_token: "no token was sent",
  invalid_token: "a token that is not a user's",
  model_not_allowed: "the plan does not have this model",
  anonymous_not_allowed: "anonymous users have no plan",
  user_blocked: "you blocked them",
  unsupported_field: "a field that costs money or keeps state",
  invalid_request: "the request is not right",
  body_too_large: "more bytes than body_bytes_max",
  upstream_error: "the upstream failed",
  upstream_unavailable: "the upstream could not be reached",
  upstream_timeout: "the upstream was too slow",
  store_unavailable: "the ledger could not be written",
  auth_unavailable: "no keys to check tokens with",
  directory_unavailable: "nobody could say the plan",
  paused: "paused, or the day's ceiling is reached",
  overloaded: "too many open requests here",
};

export function overviewPage({ main, session, overview: first }) {
  let range = RANGES.some(([id]) => id === localStorage.getItem("tollgate.range")) ? localStorage.getItem("tollgate.range") : "7d";
  let now = first;
  let loaded = "";
  let gone = new AbortController();

  const subtitle = h("p.muted");
  const pauseButton = h("button.button", { type: "button", onclick: pause }, "Pause all requests");
  const figures = h("div.figures-row");
  const banner = h("div");
  const problem = h("div");
  const ends = h("div.spaced");
  const spend = timeChart("Spend");
  const requests = timeChart("Requests");
  const ttft = timeChart("Time to first token, median");
  const body = h("div.stack");
  const firstSteps = h("div.spaced");
  const where = h("div.grid.three");
  const health = h("div.grid.two");
  const choice = h("div.segments", { role: "group", "aria-label": "Range" }, RANGES.map(([id, label]) =>
    h("button", { type: "button", "aria-pressed": String(id === range), onclick: (event) => choose(id, event.currentTarget) }, label)));

  fill(main,
    h("div.page-head", h("div", h("h1", { tabindex: "-1" }, "Overview"), subtitle), session.canWrite && pauseButton),
    banner, figures, problem, ends, firstSteps,
    h("div.section-head", h("h2", "Over time"), choice), body,
    h("div.section-head", h("h2", "Health"), h("p.muted.small", "Refusals and upstreams are counted since this server started.")), health);
  fill(body,
    h("section.card", { "aria-label": "Spend over time" }, spend.element),
    h("div.grid.two", h("section.card", { "aria-label": "Requests over time" }, requests.element),
      h("section.card", { "aria-label": "Time to first token" }, ttft.element)),
    where);

  if (now) show();
  const timer = setInterval(() => !document.hidden && load(), AGAIN_MS);

  function choose(id, button) {
    range = id;
    localStorage.setItem("tollgate.range", id);
    for (const other of choice.children) other.setAttribute("aria-pressed", String(other === button));
    load();
  }

  // The head of the page: everything that the live figures say.
  function show() {
    subtitle.textContent = `${f.dayFull(now.today.day)} · running for ${f.span((Date.parse(now.now) - Date.parse(now.started_at)) / 1000)}`;
    pauseButton.hidden = now.paused !== null;
    showBanner();
    fill(figures, ceilingFigure(), countFigures());
    showHealth();
    showEnds();
    if (loaded !== what()) load();
  }

  function showBanner() {
    if (banner.dataset.reason === String(now.paused)) return;
    banner.dataset.reason = String(now.paused);
    fill(banner, now.paused !== null && h("div.banner", { role: "status" },
      h("div", h("strong", "Paused. "), "New requests are refused with 503 paused", now.paused ? ": " : ".", now.paused && h("q", now.paused)),
      session.canWrite && h("button.button", { type: "button", onclick: resume }, "Resume")));
  }

  // Models of the plans that their provider shuts down soon.
  function showEnds() {
    const rows = now.model_ends;
    const users = (row) => [...row.plans, ...row.prompts.map((name) => `prompt ${name}`)].join(", ");
    const days = (row) => row.days_left < 0 ? "over" : row.days_left === 0 ? "today" : `in ${f.plural(row.days_left, "day")}`;
    fill(ends, rows.length > 0 && card("Models that are shut down soon", {}, table("Models that are shut down soon", [
      { label: "Model", grow: true, wrap: true, cell: (row) => [h("code", row.model), h("div.narrow.muted.small", users(row))] },
      { label: "Asked for by", wide: true, cell: users },
      { label: "Last day", wrap: true, cell: (row) => [row.last_day, h("span.muted", ` ${days(row)}`)] },
      { label: "Then", wrap: true, cell: (row) => row.successor ? h("code", row.successor) : h("span.warn-text", "nothing: requests fail") },
    ], rows)));
  }

  function ceilingFigure() {
    const spent = f.micros(now.today.cost_usd);
    const c = now.ceiling;
    if (!c) {
      return h("section.card.figure.lead", { "aria-label": "Spend today" }, h("p.figure-name", "Spend today"), h("p.figure-value.big", f.money(spent)),
        h("p.muted.small", "No ceiling is set. With ", h("code", "[ceiling] cost_usd_per_day"), " Tollgate stops by itself when a day's spend reaches it."));
    }
    const [limit, used, held, left] = [c.limit, c.used, c.held, c.remaining].map(f.micros);
    const resets = f.span((Date.parse(c.resets_at) - Date.parse(now.now)) / 1000);
    const text = `${f.money(used)} used and ${f.money(held)} held of ${f.money(limit)}; ${f.money(left)} left`;
    return h("section.card.figure.lead", { "aria-label": "Spend today" }, h("p.figure-name", "Spend today"),
      h("p.figure-value.big", f.money(used), h("span.of", ` of ${f.money(limit)}`)),
      limitBar({ name: "Today's ceiling", limit, used, held, text }),
      h("p.split.muted.small", h("span", h("b", f.money(left)), " left"), h("span", h("b", f.money(held)), " held by open requests"), h("span", "resets in ", h("b", resets))));
  }

  function countFigures() {
    const t = now.today;
    const figure = (name, value, sub) => h("div.figure", h("dt.figure-name", name), h("dd.figure-value", value), h("dd.muted.small", sub));
    return h("dl.card.counts",
      figure("Requests today", f.count(t.requests), `by ${f.plural(t.users, "user")}`),
      figure("Tokens today", f.compact(t.input_tokens + t.output_tokens), `${f.compact(t.input_tokens)} in · ${f.compact(t.output_tokens)} out`),
      figure("First token", now.ttft_ms ? f.milliseconds(now.ttft_ms.p50) : "–", now.ttft_ms ? `p90\u00a0${f.milliseconds(now.ttft_ms.p90)} · p99\u00a0${f.milliseconds(now.ttft_ms.p99)}` : "no answers today"),
      figure("Open now", h("a", { href: "#/open" }, f.count(now.open)), now.open === 1 ? "request" : "requests"),
      now.devices && figure("Attested devices", now.devices.requests ? `${Math.round((100 * now.devices.attested) / now.devices.requests)}\u00a0%` : "–", `${f.count(now.devices.attested)} of ${f.plural(now.devices.requests, "request")} since the start`));
  }

  function showHealth() {
    const refused = now.refusals.filter((row) => row.count > 0).sort((a, b) => b.count - a.count);
    const all = refused.reduce((sum, row) => sum + row.count, 0);
    const box = now.outbox;
    fill(health,
      card("Refusals by code", {}, refused.length
        ? barList("Refusals by code", refused.map((row) => ({ name: h("code", row.code), value: row.count, text: f.count(row.count), sub: REFUSED[row.code], colour: "plain" })))
        : empty("No request was refused", "Requests over a limit or with a wrong token are counted here by code.")),
      h("div.stack", card("Upstreams", {}, now.upstreams.length
        ? table("Upstreams", [
          { label: "Name", grow: true, cell: (row) => [h("span", { class: row.ok && row.breaker === "closed" ? "dot ok" : "dot bad" }), row.name, !row.ok && h("span.muted", " – out of use"), row.ok && row.breaker !== "closed" && h("span.muted", ` – ${BREAKER[row.breaker]}`)] },
          { label: "Requests", number: true, cell: (row) => f.compact(row.requests) },
          { label: "Errors", number: true, cell: (row) => [f.compact(row.errors), h("span.muted", ` ${f.percent(row.errors, row.requests)}`)] },
        ], now.upstreams)
        : empty("No upstream", "Add one under [[upstreams]] in tollgate.toml.")),
      card("Outbox to your database", {}, box
        ? h("div", h("p.figure-value", f.count(box.waiting), h("span.of", box.waiting === 1 ? " entry waits" : " entries wait")),
          h("p.muted.small", box.waiting ? `The oldest for ${f.span(box.oldest_seconds ?? 0)}.` : "All charged requests were delivered."),
          (box.oldest_seconds ?? 0) > 300 && h("p.warn-text", "It lags. Your database may be down, or log_request fails; “tollgate doctor” says which."))
        : empty("Not in use", "If your database is configured, each charged request is passed to its log_request function."))));
  }

  // What the charts are of. The first request of a day shows in them at once, as it does in the figures above them.
  function what() {
    return `${range} ${now.today.day} ${now.today.requests > 0} ${now.ttft_ms !== null}`;
  }

  // The rest: sums over the chosen range. Asked for anew each minute.
  async function load() {
    gone.abort();
    gone = new AbortController();
    const { signal } = gone;
    const to = now.today.day;
    const days = RANGES.find(([id]) => id === range)[2];
    const from = f.addDays(to, 1 - days);
    loaded = what();
    body.setAttribute("aria-busy", "true");
    try {
      const usage = (by, limit) => api("usage", { query: { by, from, to, limit }, signal });
      const [series, models, plans, users] = await Promise.all([
        api("series", { query: { from, to, step: days === 1 ? "hour" : "day" }, signal }), usage("model", 6), usage("plan", 6), usage("user", 6)]);
      fill(problem);
      showCharts(series.rows, from, days);
      showWhere(models, plans, users);
      const none = series.rows.every((row) => row.requests === 0);
      fill(firstSteps, none && now.today.requests === 0 && h("section.card", { "aria-label": "First steps" }, empty(`No requests ${days === 1 ? "today" : "in this period"}. Send one, and it appears here.`,
        firstRequest(), h("p.muted.small", "A token of your app works too, in place of this development token. A user appears under Users with their first request."))));
    } catch (error) {
      if (error.name === "AbortError") return;
      loaded = "";
      fill(problem, errorBox(known(error), load));
    }
    body.removeAttribute("aria-busy");
  }

  function showCharts(rows, from, days) {
    const hours = days === 1;
    const labels = rows.map((row, index) => (hours ? hourName(rows, index) : f.dayName(f.addDays(from, index))));
    const names = rows.map((row, index) => (hours ? `${labels[index]} to ${hourName(rows, index, 1)}` : f.dayFull(f.addDays(from, index))));
    const first = { label: hours ? "Hour" : "Day", cell: (row) => row.label };
    const cost = rows.map((row) => f.micros(row.cost_usd));
    showSpend({ rows, hours, labels, names, first, cost });

    const count = rows.map((row) => row.requests);
    const column = (label, key) => ({ label, number: true, cell: (row) => f.count(rows[row.index][key]) });
    const total = count.reduce((sum, one) => sum + one, 0);
    requests.set({
      labels, names, whole: true, axis: (ticks) => ticks.map((tick) => f.compact(tick)),
      series: [{ label: "Requests", values: count, kind: "bars", colour: "requests", format: f.count }],
      summary: `Requests ${hours ? "by hour" : "by day"}: ${f.count(total)} in all, at most ${f.count(Math.max(...count))}.`,
      more: (index) => [rows[index].lost > 0 && h("div.tip-more", `${f.count(rows[index].lost)} lost`), rows[index].estimated > 0 && h("div.tip-more", `${f.count(rows[index].estimated)} estimated`)],
      columns: [first, column("Requests", "requests"), column("Input tokens", "input_tokens"), column("Output tokens", "output_tokens"), column("Lost", "lost"), column("Estimated", "estimated")],
    });

    const median = rows.map((row) => row.ttft_p50_ms);
    const told = median.filter((ms) => ms !== null);
    ttft.set({
      labels, names, axis: (ticks) => ticks.map(f.milliseconds),
      series: [{ label: "Median", values: median, kind: "line", colour: "ttft", format: f.milliseconds }],
      summary: told.length ? `Median time to first token: between ${f.milliseconds(Math.min(...told))} and ${f.milliseconds(Math.max(...told))}.` : "No answers in this period.",
      columns: [first, { label: "Median", number: true, cell: (row) => f.milliseconds(median[row.index]) }],
    });
  }

  function showSpend({ rows, hours, labels, names, first, cost }) {
    const limit = now.ceiling ? f.micros(now.ceiling.limit) : null;
    const sum = cost.reduce((all, one) => all + one, 0);
    let running = 0;
    // Of the hours that have not been yet there is nothing to draw.
    const past = rows.map((row) => Date.parse(row.at) <= Date.parse(now.now));
    const soFar = cost.map((one, index) => ((running += one), past[index] ? running : null));
    const top = hours ? running : Math.max(...cost);
    // A ceiling far above what is spent would press the figures flat.
    const near = limit !== null && top > limit * 0.2;
    const each = f.moneyColumn(cost);
    const series = [
      hours ? { label: "Spend so far", values: soFar, kind: "area", colour: "accent", format: (value) => (value === null ? "–" : f.money(value)) }
        : { label: "Spend a day", values: cost, kind: "bars", colour: "accent", format: f.money },
      near && { label: "Ceiling a day", values: cost.map(() => limit), kind: "limit", colour: "limit", format: f.money },
    ].filter(Boolean);
    spend.set({
      labels, names, series, axis: f.moneyAxis,
      note: limit !== null && !near && sum > 0 ? `The ceiling of ${f.money(limit)} a day is far above this chart.` : null,
      more: hours ? (index) => h("div.tip-more", `${f.money(cost[index])} in this hour`) : null,
      summary: `Spend ${hours ? "so far today" : "by day"}: ${f.money(sum)} in all, at most ${f.money(Math.max(...cost))} ${hours ? "an hour" : "a day"}${limit === null ? "" : `; the ceiling is ${f.money(limit)} a day`}.`,
      columns: [first, { label: "Spend", number: true, cell: (row) => each(cost[row.index]) }, hours && { label: "So far", number: true, cell: (row) => (soFar[row.index] === null ? "–" : f.money(soFar[row.index])) }].filter(Boolean),
    });
  }

  function showWhere(models, plans, users) {
    const list = (what, rows) => {
      const cost = rows.map((row) => f.micros(row.cost_usd));
      const written = f.moneyColumn(cost);
      return barList(what, rows.map((row, index) => ({ name: row.key ?? "–", value: cost[index], text: written(cost[index]), sub: `${f.plural(row.requests, "request")} · ${f.compact(row.input_tokens)} in · ${f.compact(row.output_tokens)} out` })));
    };
    const nothing = (what) => empty("Nothing spent", `What is spent is shown by ${what}.`);
    const written = f.moneyColumn(users.rows.map((row) => f.micros(row.cost_usd)));
    fill(where,
      card("Spend by model", {}, models.rows.length ? list("Spend by model", models.rows) : nothing("model")),
      card("Spend by plan", {}, plans.rows.length ? list("Spend by plan", plans.rows) : nothing("plan")),
      card("Top users", { aside: h("a.small", { href: "#/users" }, "All users") }, users.rows.length
        ? table("Top users", [
          { label: "User", grow: true, cell: (row) => userLink(row.key) },
          { label: "Requests", number: true, cell: (row) => f.count(row.requests) },
          { label: "Spend", number: true, cell: (row) => written(f.micros(row.cost_usd)) },
        ], users.rows)
        : nothing("user")));
  }

  async function pause() {
    const reason = h("input", { type: "text", maxlength: "200", required: true, autocomplete: "off" });
    const done = await ask({
      title: "Pause all requests?", action: "Pause", danger: true, explain: errorBox,
      lead: "New requests of all users are refused with 503 paused until you resume. Open streams continue to their end.",
      fields: [field("Reason", reason, "It is logged and kept in the audit, for example: a key leaked.")],
      send: () => api("pause", { method: "POST", body: { reason: reason.value.trim() } }),
    });
    if (done) await refresh("Paused.");
  }

  async function resume() {
    try {
      await api("resume", { method: "POST", body: {} });
      await refresh("Resumed. Requests are served again.");
    } catch (error) {
      fill(problem, errorBox(known(error), resume));
    }
  }

  async function refresh(text) {
    toast(text);
    now = await api("overview");
    show();
  }

  return {
    update(next) {
      now = next;
      show();
    },
    close() {
      gone.abort();
      clearInterval(timer);
      [spend, requests, ttft].forEach((chart) => chart.destroy());
    },
  };
}

// Hours of a day that may have 23 or 25 of them: counted from its first.
function hourName(rows, index, add = 0) {
  const hours = Math.round((Date.parse(rows[index].at) - Date.parse(rows[0].at)) / 3_600_000) + add;
  return `${String(hours % 24).padStart(2, "0")}:00`;
}

/** A user's id: short where there is little room, whole in its title and for a screen reader. */
export function userLink(id, { whole = false } = {}) {
  if (!id) return "–";
  const short = id.length > 9 ? `${id.slice(0, 8)}…` : id;
  const middle = whole || id.length <= 13 ? id : `${id.slice(0, 8)}…${id.slice(-4)}`;
  return h("a.id", { href: `#/users/${encodeURIComponent(id)}`, title: id },
    h("span.roomy", { "aria-hidden": "true" }, middle), h("span.narrow", { "aria-hidden": "true" }, short), h("span.sr", id));
}

// One user: their plan, each limit as a bar, what they did last; and what an operator may do for or against them.

import { api, errorBox, known } from "./api.js";
import { ask, card, empty, field, fill, h, icon, table, toast } from "./dom.js";
import { limitBar } from "./charts.js";
import * as f from "./format.js";

const AGAIN_MS = 5_000;
const SOURCES = {
  local: "set by an operator",
  purchase: "bought in a store",
  last_request: "as of the last request",
  default: "the default plan",
};

export function userPage({ main, session, id }) {
  let data = null;
  let requests = [];
  let next = null;
  let closed = false;
  const path = `users/${encodeURIComponent(id)}`;
  const content = h("div.stack", { "aria-busy": "true" });
  const badges = h("p.badges");
  const why = h("p.muted.small");
  const actions = h("div.actions");
  const latest = h("div");
  const limits = h("div");
  const credits = h("div");
  const raises = h("div");
  const summary = h("div");
  const problem = h("div");

  fill(main,
    h("p.crumb", h("a", { href: "#/users" }, "Users")),
    h("div.page-head",
      h("div", h("h1.id", { tabindex: "-1" }, id, " ", h("button.icon-button", { type: "button", "aria-label": "Copy the id", onclick: copy }, icon("copy"))), badges, why),
      actions),
    problem, content);
  load(true);
  const timer = setInterval(() => !document.hidden && load(false), AGAIN_MS);

  async function load(all) {
    try {
      const [user, page] = await Promise.all([api(path), (all || requests.length <= 20) && api("requests", { query: { user: id, limit: 20 } })]);
      if (closed) return;
      data = user;
      if (page) [requests, next] = [page.rows, page.next];
      fill(problem);
      show();
    } catch (error) {
      if (!closed) fill(problem, errorBox(known(error), () => load(true)));
    }
    content.removeAttribute("aria-busy");
  }

  function show() {
    const { user } = data;
    fill(badges, h("span.badge", user.plan ?? "no plan"), h("span.muted.small", SOURCES[user.plan_source] ?? user.plan_source ?? ""),
      user.plan_until && h("span.muted.small", "until ", f.time(user.plan_until)), user.blocked && h("span.badge.danger", "blocked"));
    fill(why, "Why: ", user.why);
    showActions();
    showLimits();
    fill(summary, h("dl.facts",
      h("div", h("dt", "Spend this month"), h("dd", f.money(f.micros(data.month.cost_usd)))),
      h("div", h("dt", "Requests this month"), h("dd", f.count(data.month.requests))),
      h("div", h("dt", "Open now"), h("dd", f.count(data.concurrent?.open ?? 0), data.concurrent?.limit && h("span.of", ` of ${f.count(data.concurrent.limit)}`)))));
    showCredits();
    showLatest();
    if (content.childElementCount) return;
    fill(content,
      h("div.grid.side",
        card("Limits", {}, limits),
        h("div.stack", card("This month", {}, summary), card("Credits", {}, credits), card("Raised limits", {}, raises))),
      card("Latest requests", { class: "list" }, latest));
  }

  function showActions() {
    if (!session.canWrite) return fill(actions, h("p.muted.small", "This token may only read."));
    const want = data.user.blocked ? "Unblock" : "Block";
    // Drawn anew only when it changes: a button that is replaced loses the focus.
    if (actions.dataset.want === want) return;
    actions.dataset.want = want;
    fill(actions,
      h("button.button", { type: "button", onclick: changePlan }, "Change plan"),
      h("button.button", { type: "button", onclick: grantCredits }, "Give credits"),
      h("button.button", { type: "button", onclick: raiseLimit }, "Raise a limit"),
      data.user.blocked ? h("button.button", { type: "button", onclick: unblock }, "Unblock") : h("button.button.danger-outline", { type: "button", onclick: block }, "Block"),
      h("button.button.danger-outline", { type: "button", onclick: forget }, "Forget"));
  }

  function showLimits() {
    if (!data.limits.length) return fill(limits, empty("This plan has no limits", "The ceiling of the whole app still applies. Limits are set under [plans] in tollgate.toml."));
    fill(limits, h("ul.limits", data.limits.map((limit) => {
      const [all, used, held, left] = [limit.limit, limit.used, limit.held, limit.remaining].map((value) => f.amountOf(limit.unit, value));
      const say = (amount) => f.amountText(limit.unit, amount);
      const name = limitName(limit);
      return h("li",
        h("div.bar-head", h("span.bar-name", name), h("span.bar-value", h("b", say(used)), h("span.muted", ` of ${say(all)}`))),
        limitBar({ name, limit: all, used, held, text: `${say(used)} used, ${say(held)} held, ${say(left)} left of ${say(all)}` }),
        h("p.split.muted.small", h("span", h("b", say(left)), " left"), held > 0 && h("span", h("b", say(held)), " held"),
          h("span", limit.resets_at ? ["resets ", f.time(limit.resets_at)] : "never resets")));
    })));
  }

  function showCredits() {
    const balance = data.credit_balance;
    fill(credits, h("div.stack",
      balance && h("dl.facts",
        h("div", h("dt", "Left"), h("dd", f.money(f.micros(balance.remaining)))),
        h("div", h("dt", "Held"), h("dd", f.money(f.micros(balance.held)))),
        balance.next_expiry && h("div", h("dt", "The next end"), h("dd", f.time(balance.next_expiry)))),
      data.grants.length
        ? table("Grants", [
          { label: "From", grow: true, wrap: true, cell: (row) => [row.source, h("div.muted.small", f.time(row.granted_at))] },
          { label: "Left", number: true, cell: (row) => [f.money(f.micros(row.remaining_usd)), h("div.muted.small", `of ${f.money(f.micros(row.granted_usd))}`)] },
          { label: "Until", wrap: true, cell: (row) => (row.until ? f.time(row.until) : "no end") },
        ], data.grants)
        : empty("None", "Credits are dollars beside the plan. They pay for what does not fit its limits in dollars.")));
    fill(raises, data.credits.length
      ? table("Raised limits", [
        { label: "Raises", grow: true, cell: (row) => `${f.unitName(row.unit)} ${f.perName(row.per)}` },
        { label: "By", number: true, cell: (row) => `+${f.amountText(row.unit, f.amountOf(row.unit, row.amount))}` },
        { label: "Until", number: true, cell: (row) => f.time(row.until) },
      ], data.credits)
      : empty("None", "A limit may be raised once, for the current minute, day, month and so on."));
  }

  function showLatest() {
    if (!requests.length) return fill(latest, empty("No requests yet", "Each request of this user leaves one row, with what it held, what it used, and its exact price."));
    const written = f.moneyColumn(requests.map((row) => row.cost_micros ?? 0));
    fill(latest, table("Latest requests", [
      { label: "Started", wrap: true, cell: (row) => f.time(row.started_at) },
      { label: "Model", grow: true, cell: (row) => row.model },
      { label: "End", wrap: true, cell: (row) => [h("span", { class: `badge ${{ lost: "danger", held: "live", voided: "" }[row.state] ?? "ok"}` }, row.state === "held" ? "open" : row.state), flags(row).map((flag) => h("span.badge.warn", flag))] },
      { label: "Input", number: true, wide: true, cell: (row) => (row.input_tokens === null ? "–" : f.count(row.input_tokens)) },
      { label: "Output", number: true, wide: true, cell: (row) => (row.output_tokens === null ? "–" : f.count(row.output_tokens)) },
      { label: "Took", number: true, wide: true, cell: (row) => (row.ended_at ? f.milliseconds(Date.parse(row.ended_at) - Date.parse(row.started_at)) : "–") },
      { label: "Cost", number: true, cell: (row) => (row.state === "held" ? h("span.muted", `holds ${f.money(row.held_micros)}`) : written(row.cost_micros ?? 0)) },
    ], requests), next && h("div.more", h("button.button", { type: "button", onclick: more }, "Show more")));
  }

  async function more() {
    try {
      const page = await api("requests", { query: { user: id, limit: 50, cursor: next } });
      requests = [...requests, ...page.rows];
      next = page.next;
      showLatest();
    } catch (error) {
      fill(problem, errorBox(known(error), more));
    }
  }

  async function changePlan() {
    // The dialog does not wait for what is only a help.
    const plans = h("datalist", { id: "plans" });
    planNames().then((names) => fill(plans, names.map((name) => h("option", { value: name }))));
    const plan = h("input", { type: "text", required: true, autocomplete: "off", spellcheck: "false", list: "plans", value: data.user.plan_source === "local" ? data.user.plan : "" });
    const until = h("input", { type: "datetime-local" });
    const isSet = data.user.plan_source === "local";
    let back = false;
    const done = await ask({
      title: "Change plan", action: "Set plan", explain: errorBox,
      lead: "It applies from their next request on, and what was used stays used. If your database or the user's token names a plan, that one applies instead.",
      fields: [
        field("Plan", plan, "A name under [plans] in tollgate.toml."), plans,
        field("Until", until, `Leave empty for no end. In your time zone, ${f.zone()}.`),
        isSet && h("label.check", h("input", { type: "checkbox", onchange: (event) => takeBack(event.currentTarget.checked) }), "Take the plan back: the user gets the plan from elsewhere, or the default plan"),
      ],
      send: () => (back ? api(`${path}/plan`, { method: "DELETE" })
        : api(`${path}/plan`, { method: "PUT", body: { plan: plan.value.trim(), until: until.value ? new Date(until.value).toISOString() : null } })),
    });
    if (done) await after(back ? "The plan was taken back." : `The plan is set to ${plan.value.trim()}.`);

    function takeBack(on) {
      back = on;
      plan.disabled = until.disabled = on;
    }
  }

  async function grantCredits() {
    const amount = h("input", { type: "text", inputmode: "decimal", required: true, autocomplete: "off", pattern: "[0-9]+([.][0-9]{1,6})?" });
    const until = h("input", { type: "datetime-local" });
    const done = await ask({
      title: "Give credits", action: "Give credits", explain: errorBox,
      lead: "They pay for what does not fit the plan's limits in dollars. Limits in requests or tokens hold all the same.",
      fields: [field("Amount", amount, "US dollars, such as 5.00."), field("Until", until, `Leave empty for no end. In your time zone, ${f.zone()}.`)],
      send: () => api(`${path}/grant`, { method: "POST", body: { amount: amount.value.trim(), until: until.value ? new Date(until.value).toISOString() : null } }),
    });
    if (done) await after("The credits were given.");
  }

  async function forget() {
    const done = await ask({
      title: "Forget this user?", action: "Forget", danger: true, explain: errorBox,
      lead: "What is known of the user is removed: the plan, a block, credits, and the id on every request. What the requests cost stays, as nobody's. This cannot be undone. Delete the account first: a user who is still signed in may make requests again.",
      send: () => api(path, { method: "DELETE" }),
    });
    if (done) await after("Forgotten.");
  }

  async function raiseLimit() {
    // A limit for one model is raised by nothing.
    const raisable = data.limits.filter((limit) => !limit.model);
    const choices = raisable.map((limit, index) => h("option", { value: String(index) }, limitName(limit)));
    if (!choices.length) return toast("This plan has no limit that can be raised.");
    const which = h("select", choices);
    const amount = h("input", { type: "text", inputmode: "decimal", required: true, autocomplete: "off", pattern: "[0-9]+([.][0-9]{1,6})?" });
    const done = await ask({
      title: "Raise a limit", action: "Raise", explain: errorBox,
      lead: "Raises one limit once, for the current minute, day, month and so on.",
      fields: [field("Limit", which), field("Amount", amount, "Spend: US dollars, such as 1.50. Everything else: a whole number.")],
      send: () => {
        const { per, unit } = raisable[Number(which.value)];
        const text = amount.value.trim();
        return api(`${path}/credit`, { method: "POST", body: { per, unit, amount: unit === "cost_usd" ? text : Number(text) } });
      },
    });
    if (done) await after("The limit was raised.");
  }

  async function block() {
    const done = await ask({
      title: "Block this user?", action: "Block", danger: true, explain: errorBox,
      lead: "Their next request is refused with 403 user_blocked. A stream that is open continues to its end. You can unblock them at any time.",
      send: () => api(`${path}/block`, { method: "POST", body: {} }),
    });
    if (done) await after("Blocked.");
  }

  async function unblock() {
    try {
      await api(`${path}/unblock`, { method: "POST", body: {} });
      await after("Unblocked.");
    } catch (error) {
      fill(problem, errorBox(known(error), unblock));
    }
  }

  async function after(text) {
    toast(text);
    await load(false);
  }

  async function copy() {
    try {
      await navigator.clipboard.writeText(id);
      toast("Copied.");
    } catch {
      toast("The browser does not allow this page to copy. Select the id instead.");
    }
  }

  return {
    close() {
      closed = true;
      clearInterval(timer);
    },
  };
}

const limitName = (limit) => `${f.unitName(limit.unit)} ${f.perName(limit.per)}${limit.model ? ` with ${limit.model}` : ""}`;

const flags = (row) => (Array.isArray(row.flags) ? row.flags : []);

// The API has no list of plans; those that were used lately are a help while typing, and any name may be typed.
async function planNames() {
  try {
    const { today } = await api("overview");
    const usage = await api("usage", { query: { by: "plan", from: f.addDays(today.day, -89), to: today.day } });
    return usage.rows.map((row) => row.key).filter(Boolean);
  } catch {
    return [];
  }
}

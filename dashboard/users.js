// All users that were ever seen, highest spend of the month first or latest first; a search by the beginning of an id.

import { api, errorBox, firstRequest, known } from "./api.js";
import { empty, fill, h, table } from "./dom.js";
import { userLink } from "./overview.js";
import * as f from "./format.js";

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

export function usersPage({ main, query }) {
  let sort = query.get("sort") === "recent" ? "recent" : "spend";
  let gone = new AbortController();
  let rows = [];
  let next = null;
  let typing = 0;

  const search = h("input", { type: "search", maxlength: "36", id: "search", autocomplete: "off", spellcheck: "false", placeholder: "Beginning of an id", value: query.get("search") ?? "", oninput: typed });
  const list = h("div");
  const told = h("p.sr", { role: "status" });
  const choice = h("div.segments", { role: "group", "aria-label": "Order" }, [["spend", "Spend"], ["recent", "Latest"]].map(([id, label]) =>
    h("button", { type: "button", "aria-pressed": String(id === sort), onclick: (event) => order(id, event.currentTarget) }, label)));

  fill(main,
    h("div.page-head", h("div", h("h1", { tabindex: "-1" }, "Users"), h("p.muted", "Everybody who has sent a request or was given a plan."))),
    h("section.card.list", { "aria-label": "Users" },
      h("form.toolbar", { role: "search", onsubmit: sent }, h("label", { for: "search" }, "Search by id"), search, choice), told, list));
  load();

  function typed() {
    clearTimeout(typing);
    typing = setTimeout(load, 250);
  }

  // A whole id leads to its page, also of somebody never seen: a plan can be set before the first request.
  function sent(event) {
    event.preventDefault();
    const id = search.value.trim().toLowerCase();
    if (UUID.test(id)) location.hash = `#/users/${id}`;
    else load();
  }

  function order(id, button) {
    sort = id;
    for (const other of choice.children) other.setAttribute("aria-pressed", String(other === button));
    load();
  }

  async function load(more = false) {
    clearTimeout(typing);
    gone.abort();
    gone = new AbortController();
    const term = search.value.trim().toLowerCase();
    const kept = new URLSearchParams({ ...(term && { search: term }), ...(sort !== "spend" && { sort }) }).toString();
    history.replaceState(null, "", `#/users${kept ? `?${kept}` : ""}`);
    if (!/^[0-9a-f-]*$/.test(term)) return fill(list, empty("No id looks like this", "A user's id consists of digits, the letters a to f, and dashes. It is the sub of their token."));
    list.setAttribute("aria-busy", "true");
    try {
      const page = await api("users", { query: { search: term, sort, cursor: more === true ? next : null }, signal: gone.signal });
      rows = more === true ? [...rows, ...page.rows] : page.rows;
      next = page.next;
      show(term);
    } catch (error) {
      if (error.name === "AbortError") return;
      fill(list, errorBox(known(error), load));
    }
    list.removeAttribute("aria-busy");
  }

  function show(term) {
    told.textContent = `${f.plural(rows.length, "user")} shown`;
    if (!rows.length) return fill(list, term ? noneFound(term) : noneYet());
    const today = f.moneyColumn(rows.map((row) => f.micros(row.cost_usd_today)));
    const month = f.moneyColumn(rows.map((row) => f.micros(row.cost_usd_month)));
    fill(list, table("Users", [
      { label: "User", grow: true, cell: (row) => [userLink(row.id, { whole: true }), row.blocked && h("span.badge.danger", "blocked")] },
      { label: "Plan", cell: (row) => row.plan ?? "–" },
      { label: "Requests today", number: true, wide: true, cell: (row) => f.count(row.requests_today) },
      { label: "Spend today", number: true, wide: true, cell: (row) => today(f.micros(row.cost_usd_today)) },
      { label: "This month", number: true, cell: (row) => month(f.micros(row.cost_usd_month)) },
      { label: "Last request", number: true, wide: true, cell: (row) => f.time(row.last_request_at, { ago: true }) },
    ], rows), next && h("div.more", h("button.button", { type: "button", onclick: () => load(true) }, "Show more")));
  }

  function noneFound(term) {
    if (!UUID.test(term)) return empty("No id begins with this", "Ids are compared from their first character.");
    return empty("This user has sent nothing yet", h("p", h("a", { href: `#/users/${term}` }, "Open their page"), " to see their plan, or to put them on one before their first request."));
  }

  function noneYet() {
    return empty("No users yet. A user appears with their first request.", firstRequest());
  }

  return {
    close() {
      clearTimeout(typing);
      gone.abort();
    },
  };
}

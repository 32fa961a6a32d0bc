// What is open at this moment: each line is a request that holds money until it ends.

import { api, errorBox, known } from "./api.js";
import { empty, fill, h, table } from "./dom.js";
import { userLink } from "./overview.js";
import * as f from "./format.js";

const AGAIN_MS = 2_000;

export function openPage({ main }) {
  const told = h("p.muted");
  const list = h("div", { "aria-busy": "true" });
  let closed = false;
  let timer = 0;
  let drawn = "";
  let cells = new Map();

  fill(main, h("div.page-head", h("div", h("h1", { tabindex: "-1" }, "Open requests"), told)), h("section.card.list", { "aria-label": "Open requests" }, list));
  load();

  async function load() {
    clearTimeout(timer);
    try {
      if (!document.hidden) show(await api("open"));
    } catch (error) {
      if (!closed) fill(list, errorBox(known(error), load));
      drawn = "";
    }
    list.removeAttribute("aria-busy");
    if (!closed) timer = setTimeout(load, AGAIN_MS);
  }

  function show({ rows }) {
    if (closed) return;
    const held = rows.reduce((sum, row) => sum + f.micros(row.held_usd), 0);
    told.textContent = rows.length ? `${f.plural(rows.length, "request")}, holding ${f.money(held)}.` : "None at this moment.";
    // The same requests as before only grow older: a table that is drawn anew loses the focus and the selection.
    const ids = rows.map((row) => row.id).join();
    if (rows.length && ids === drawn) return rows.forEach((row) => (cells.get(row.id).textContent = f.span(row.seconds)));
    drawn = ids;
    if (!rows.length) return fill(list, empty("Nothing is open", "While an answer streams, its request is a line here, with the money that it holds. It leaves when its exact price is known."));
    cells = new Map(rows.map((row) => [row.id, h("span", f.span(row.seconds))]));
    const written = f.moneyColumn(rows.map((row) => f.micros(row.held_usd)));
    fill(list, table("Open requests", [
      { label: "User", cell: (row) => userLink(row.user_id, { whole: true }) },
      { label: "Model", grow: true, cell: (row) => row.model },
      { label: "Plan", wide: true, cell: (row) => row.plan ?? "–" },
      { label: "Upstream", wide: true, cell: (row) => row.upstream ?? "–" },
      { label: "Open for", number: true, cell: (row) => cells.get(row.id) },
      { label: "Holds", number: true, cell: (row) => written(f.micros(row.held_usd)) },
    ], rows));
  }

  return {
    close() {
      closed = true;
      clearTimeout(timer);
    },
  };
}

// Who changed what, and which tokens may.

import { api, errorBox, known } from "./api.js";
import { card, code, empty, fill, h, table } from "./dom.js";
import { userLink } from "./overview.js";
import * as f from "./format.js";

export function auditPage({ main }) {
  let rows = [];
  let next = null;
  let closed = false;
  const changes = h("div", { "aria-busy": "true" });
  const tokens = h("div", { "aria-busy": "true" });

  fill(main,
    h("div.page-head", h("div", h("h1", { tabindex: "-1" }, "Audit"), h("p.muted", "Every change, by whom, newest first."))),
    h("div.stack", card("Changes", { class: "list" }, changes), card("Admin tokens", { class: "list" }, tokens)));
  load();
  loadTokens();

  async function load() {
    try {
      const page = await api("audit", { query: { cursor: next } });
      rows = [...rows, ...page.rows];
      next = page.next;
      if (!closed) show();
    } catch (error) {
      if (!closed) fill(changes, errorBox(known(error), load));
    }
    changes.removeAttribute("aria-busy");
  }

  function show() {
    if (!rows.length) return fill(changes, empty("No changes yet", "Each plan, block, grant, raised limit and pause leaves a line here, whether it was made on this page, through the API or on the command line."));
    fill(changes, table("Changes", [
      { label: "When", wrap: true, cell: (row) => f.time(row.at) },
      { label: "By", wide: true, cell: (row) => row.by ?? "–" },
      { label: "What", wrap: true, cell: (row) => [h("code", row.action), h("div.narrow.muted.small", `by ${row.by ?? "–"}`), h("div.narrow.muted.small", detail(row.detail))] },
      { label: "User", cell: (row) => userLink(row.user_id) },
      { label: "Detail", grow: true, wide: true, cell: (row) => detail(row.detail) },
    ], rows), next && h("div.more", h("button.button", { type: "button", onclick: load }, "Show more")));
  }

  async function loadTokens() {
    try {
      const page = await api("tokens");
      if (closed) return;
      fill(tokens, page.rows.length
        ? table("Admin tokens", [
          { label: "Name", grow: true, cell: (row) => [row.name, row.revoked_at && h("span.badge", "revoked")] },
          { label: "Scope", cell: (row) => row.scope },
          { label: "Made", wide: true, cell: (row) => f.time(row.created_at) },
          { label: "Last used", number: true, cell: (row) => (row.last_used_at ? f.time(row.last_used_at, { ago: true }) : "never") },
        ], page.rows)
        : empty("No tokens were made", "Give each colleague and each script a token of their own. You can revoke it separately, and the audit shows its name.", code("tollgate admin-token create laptop --scope read")));
    } catch (error) {
      if (!closed) fill(tokens, errorBox(known(error), loadTokens));
    }
    tokens.removeAttribute("aria-busy");
  }

  return {
    close() {
      closed = true;
    },
  };
}

// What was before and after, where it changed; else the members as they are.
function detail(value) {
  const { before, after, ...rest } = value ?? {};
  const names = new Set([...Object.keys(before ?? {}), ...Object.keys(after ?? {})]);
  const changes = [...names].filter((name) => before?.[name] !== after?.[name])
    .map((name) => `${name}: ${part(before?.[name])} → ${part(after?.[name])}`);
  const others = Object.entries(rest).filter(([, one]) => one !== null).map(([name, one]) => `${name}: ${part(one)}`);
  return [...changes, ...others].join(", ") || "–";
}

function part(value) {
  if (value === null || value === undefined) return "none";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

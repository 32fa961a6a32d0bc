// The prompts that live on the server: their texts, and what they cost in the last 30 days.

import { api, errorBox, known } from "./api.js";
import { card, code, empty, fill, h, table } from "./dom.js";
import * as f from "./format.js";

export function promptsPage({ main }) {
  let closed = false;
  const list = h("div", { "aria-busy": "true" });
  const texts = h("div.stack");

  fill(main,
    h("div.page-head", h("div", h("h1", { tabindex: "-1" }, "Prompts"), h("p.muted", "They live on the server: apps send the variables, and never see the texts. Requests and spend are of the last 30 days."))),
    h("div.stack", card("All prompts", { class: "list" }, list), texts));
  load();

  async function load() {
    try {
      const page = await api("prompts");
      if (!closed) show(page.rows);
    } catch (error) {
      if (!closed) fill(list, errorBox(known(error), load));
    }
    list.removeAttribute("aria-busy");
  }

  function show(rows) {
    if (!rows.length) {
      return fill(list, empty("There are no prompts", "Write one in a file of its own, prompts/summarize.toml beside tollgate.toml. It is taken up at once.",
        code("model = \"gpt-6-luna\"\nsystem = \"You summarise {{kind}} in three sentences.\"")));
    }
    const money = f.moneyColumn(rows.map((row) => f.micros(row.cost_usd)));
    fill(list, table("Prompts", [
      { label: "Prompt", grow: true, cell: (row) => row.name },
      { label: "Model", cell: (row) => row.model },
      { label: "Version", wide: true, cell: (row) => h("code", row.version) },
      { label: "Plans", wide: true, cell: (row) => row.plans?.join(", ") ?? "all" },
      { label: "Requests", number: true, cell: (row) => f.count(row.requests) },
      { label: "Spend", number: true, cell: (row) => money(f.micros(row.cost_usd)) },
    ], rows));
    fill(texts, rows.map((row) => card(row.name, {}, h("pre.code.wrapped", h("code", row.system)),
      h("p.muted.small", [
        row.variables.length ? `Variables: ${row.variables.join(", ")}` : "No variables",
        row.max_output_tokens === null ? null : `at most ${f.count(row.max_output_tokens)} tokens out`,
        `version ${row.version}`,
      ].filter(Boolean).join(" · ")))));
  }

  return {
    close() {
      closed = true;
    },
  };
}

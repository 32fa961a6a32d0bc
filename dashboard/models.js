// The names that apps may ask for: what answers, what that costs, when it ends, and what was spent on it.

import { api, errorBox, known } from "./api.js";
import { card, empty, fill, h, table } from "./dom.js";
import * as f from "./format.js";

export function modelsPage({ main }) {
  let closed = false;
  const list = h("div", { "aria-busy": "true" });

  fill(main,
    h("div.page-head", h("div", h("h1", { tabindex: "-1" }, "Models"), h("p.muted", "Every name that apps may ask for, and what answers."))),
    card("Models", { class: "list" }, list));
  load();

  async function load() {
    try {
      const page = await api("models");
      if (!closed) show(page.rows);
    } catch (error) {
      if (!closed) fill(list, errorBox(known(error), load));
    }
    list.removeAttribute("aria-busy");
  }

  function show(names) {
    if (!names.length) return fill(list, empty("No models", "Name some in a plan, or under [models] in tollgate.toml."));
    const rows = names.flatMap((name) => name.candidates.map((candidate, place) => ({ name, candidate, first: place === 0 })));
    fill(list, table("Models", [
      { label: "Name", grow: true, wrap: true, cell: ({ name, candidate, first }) => [first && h("code", name.name), first && extras(name), h("div.narrow.muted.small", answers(candidate)), h("div.narrow.muted.small", name.plans.join(", "))] },
      { label: "Answers", wide: true, cell: ({ candidate }) => answers(candidate) },
      { label: "Upstream", wide: true, cell: ({ candidate }) => candidate.upstream ?? "–" },
      { label: "Input", number: true, wide: true, cell: ({ candidate }) => f.price(candidate.input_usd) },
      { label: "Output", number: true, wide: true, cell: ({ candidate }) => f.price(candidate.output_usd) },
      { label: "Shut down", wrap: true, cell: ({ candidate }) => shutdown(candidate) },
      { label: "Plans", wide: true, cell: ({ name, first }) => first && (name.plans.join(", ") || h("span.muted", "none")) },
      { label: "30 days", number: true, cell: ({ name, first }) => first && f.money(f.micros(name.cost_usd ?? "0")) },
    ], rows), h("p.muted.small", "Prices are US dollars for a million tokens."));
  }

  return {
    close() {
      closed = true;
    },
  };
}

function answers(candidate) {
  return candidate.answered_by ? [h("code", candidate.answered_by), h("span.muted", ` for ${candidate.model}`)] : h("code", candidate.model);
}

function extras(name) {
  return [["always", name.set], ["default", name.defaults]].filter(([, fields]) => fields)
    .map(([when, fields]) => h("div.muted.small", `${when}: `, Object.entries(fields).map(([key, value]) => `${key} = ${JSON.stringify(value)}`).join(", ")));
}

function shutdown(candidate) {
  if (!candidate.last_day) return h("span.muted", "–");
  return [candidate.last_day, h("div.small", candidate.successor ? [h("span.muted", "then "), h("code", candidate.successor)] : h("span.warn-text", "then nothing"))];
}

// What users bought, what stores told of it, and which store is silent.

import { api, errorBox, known } from "./api.js";
import { card, code, empty, fill, h, table } from "./dom.js";
import { userLink } from "./overview.js";
import * as f from "./format.js";

const NAMES = { appstore: "App Store", revenuecat: "RevenueCat", superwall: "Superwall", stripe: "Stripe", app: "The app itself" };

export function purchasesPage({ main }) {
  let closed = false;
  const stores = h("div", { "aria-busy": "true" });
  const bought = list("purchases", showBought);
  const events = list("purchases/events", showEvents);

  fill(main,
    h("div.page-head", h("div", h("h1", { tabindex: "-1" }, "Purchases"), h("p.muted", "What stores tell becomes a plan at once. Two events of the same transaction are one row."))),
    h("div.stack", card("Stores", { class: "list" }, stores), card("Purchases", { class: "list" }, bought.box), card("Events of ninety days", { class: "list" }, events.box)));
  loadStores();
  bought.load();
  events.load();

  async function loadStores() {
    try {
      const page = await api("purchases/channels");
      if (!closed) showStores(page.rows);
    } catch (error) {
      if (!closed) fill(stores, errorBox(known(error), loadStores));
    }
    stores.removeAttribute("aria-busy");
  }

  function showStores(rows) {
    fill(stores, table("Stores", [
      { label: "Store", grow: true, cell: (row) => NAMES[row.channel] ?? row.channel },
      { label: "Set", cell: (row) => (row.is_set ? "yes" : "no") },
      { label: "Last event", number: true, cell: (row) => (row.last_event_at ? f.time(row.last_event_at, { ago: true }) : "none") },
      { label: "Last refused here", wide: true, wrap: true, cell: (row) => (row.last_refusal_at ? [f.time(row.last_refusal_at, { ago: true }), h("div.muted.small", row.last_refusal)] : "–") },
    ], rows));
  }

  function showBought(rows, more) {
    if (!rows.length) {
      return [empty("No purchases yet", "Write what each product gives, and connect a store. docs/purchases.md tells how, for each store.",
        code("[products.\"com.example.pro.monthly\"]\nplan = \"pro\""))];
    }
    return [table("Purchases", [
      { label: "User", cell: (row) => userLink(row.user_id) },
      { label: "Product", grow: true, wrap: true, cell: (row) => [row.product ?? "–", h("div.muted.small", row.gives)] },
      { label: "State", wrap: true, cell: (row) => [row.state, " ", row.environment === "sandbox" && h("span.badge", "sandbox"), h("div.muted.small", row.ends_at ? ["until ", f.time(row.ends_at)] : "for ever")] },
      { label: "Store", wide: true, cell: (row) => [row.store, h("div.muted.small", row.transaction)] },
    ], rows), more];
  }

  function showEvents(rows, more) {
    if (!rows.length) return [empty("No events yet", "Send one to a running server:", code("tollgate webhook test revenuecat"))];
    return [table("Events", [
      { label: "Received", wrap: true, cell: (row) => f.time(row.received_at) },
      { label: "Store", wide: true, cell: (row) => NAMES[row.channel] ?? row.channel },
      { label: "Event", grow: true, wrap: true, cell: (row) => h("code", row.kind) },
      { label: "User", wide: true, cell: (row) => userLink(row.user_id) },
      { label: "Outcome", cell: (row) => row.outcome.replace("_", " ") },
    ], rows), more];
  }

  // A list that grows page by page.
  function list(path, show) {
    const box = h("div", { "aria-busy": "true" });
    let rows = [];
    let next = null;
    async function load() {
      try {
        const page = await api(path, { query: { cursor: next } });
        rows = [...rows, ...page.rows];
        next = page.next;
        const more = next && h("div.more", h("button.button", { type: "button", onclick: load }, "Show more"));
        if (!closed) fill(box, ...show(rows, more));
      } catch (error) {
        if (!closed) fill(box, errorBox(known(error), load));
      }
      box.removeAttribute("aria-busy");
    }
    return { box, load };
  }

  return {
    close() {
      closed = true;
    },
  };
}

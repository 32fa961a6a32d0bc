// Making elements. Text goes in as text, always: ids, reasons and names come from strangers. There is no way in here to
// set markup or an inline style.

/** An element: `h("a.link", {href: "#/", onclick}, "text", child, …)`. Null and false children are left out. */
export function h(spec, ...rest) {
  const [tag, ...classes] = spec.split(".");
  const element = document.createElement(tag || "div");
  if (classes.length) element.className = classes.join(" ");
  const props = isProps(rest[0]) ? rest.shift() : {};
  for (const [name, value] of Object.entries(props)) set(element, name, value);
  append(element, rest);
  return element;
}

/** Replaces what an element holds. */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

function isProps(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value) && !(value instanceof Node);
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

function set(element, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
  else if (name === "value") element.value = value;
  else if (name === "style" || name === "innerHTML") throw new Error(`${name} is not set here`);
  else element.setAttribute(name, value === true ? "" : value);
}

const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  light: "M12 3v2M12 19v2M3 12h2M19 12h2M5.6 5.6 7 7M17 17l1.4 1.4M5.6 18.4 7 17M17 7l1.4-1.4M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8z",
  dark: "M20 14.5A8 8 0 0 1 9.5 4a8 8 0 1 0 10.5 10.5z",
  auto: "M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17zM12 3.5v17M15 5v14M18 7.5v9",
  leave: "M10 4H5v16h5M14 8l4 4-4 4M18 12H9",
  copy: "M9 9h10v11H9zM5 15V4h10",
  gate: "M6 20V5M6 8.5h14",
};

/** One of the drawings above, for the eye only. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/**
 * A table. Columns: `{label, cell(row), number?, wide?, grow?}`; `wide` ones are left out on a phone, `wrap`
 * ones may break there. */
export function table(caption, columns, rows) {
  const kind = (column) => [column.number && "number", column.wide && "wide", column.grow && "grow", column.wrap && "wrap"].filter(Boolean).join(" ");
  const head = columns.map((column) => h("th", { scope: "col", class: kind(column) || null }, column.label));
  const body = rows.map((row) => h("tr", columns.map((column) => h("td", { class: kind(column) || null }, column.cell(row)))));
  return h("div.scroll", { tabindex: "0", role: "group", "aria-label": caption },
    h("table", h("caption.sr", caption), h("thead", h("tr", head)), h("tbody", body)));
}

/** Where there is nothing yet: what would be here, and how it comes to be. */
export function empty(title, ...lines) {
  return h("div.empty", h("p.empty-title", title), lines.map((line) => (line instanceof Node ? line : h("p", line))));
}

/** A line for a terminal. */
export const code = (text) => h("pre.code", { tabindex: "0" }, h("code", text));

/** A part of the page with its own heading. */
export function card(title, props, ...children) {
  const id = `card-${(card.count = (card.count ?? 0) + 1)}`;
  return h("section.card", { "aria-labelledby": id, ...(props.class ? { class: `card ${props.class}` } : {}) },
    h("header.card-head", h("h2", { id }, title), props.aside), children);
}

let toastTimer = 0;
/** Says for a moment that something was done. */
export function toast(text) {
  const element = document.getElementById("toast");
  element.textContent = text;
  element.classList.add("shown");
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => element.classList.remove("shown"), 5000);
}

/**
 * A form in a dialog. `fields` are elements, `send()` does it and may throw: the dialog stays open and says why.
 * Answers true when it was done.
 */
export function ask({ title, lead, fields = [], action, danger = false, send, explain }) {
  return new Promise((resolve) => {
    let done = false;
    const problem = h("div", { role: "alert" });
    const go = h(danger ? "button.button.danger" : "button.button.primary", { type: "submit" }, action);
    const id = "dialog-title";
    const form = h("form", { onsubmit: submit },
      h("h2", { id }, title), lead && h("p.muted", lead), fields, problem,
      h("div.actions", h("button.button", { type: "button", onclick: () => dialog.close() }, "Cancel"), go));
    const dialog = h("dialog.dialog", { "aria-labelledby": id, onclose: closed }, form);
    async function submit(event) {
      event.preventDefault();
      go.disabled = true;
      try {
        await send();
        done = true;
        dialog.close();
      } catch (error) {
        fill(problem, explain(error));
      } finally {
        go.disabled = false;
      }
    }
    function closed() {
      dialog.remove();
      resolve(done);
    }
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** A label with its control and a hint. */
export function field(label, control, hint) {
  const id = `field-${(field.count = (field.count ?? 0) + 1)}`;
  control.id = id;
  if (hint) control.setAttribute("aria-describedby", `${id}-hint`);
  return h("div.field", h("label", { for: id }, label), control, hint && h("p.hint", { id: `${id}-hint` }, hint));
}

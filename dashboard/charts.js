// Charts over time, drawn by uPlot, each with the same figures as a table. Colours come from the style sheet, so that
// they follow the theme.

import { h, fill, table } from "./dom.js";

const probe = document.createElement("span");
probe.hidden = true;
/** A colour of the style sheet as the canvas wants it. */
function colour(name) {
  if (!probe.isConnected) document.body.append(probe);
  probe.className = `colour-${name}`;
  return getComputedStyle(probe).color;
}

const drawn = new Set();
/** Draws all charts again, in the theme that holds now. */
export const repaint = () => drawn.forEach((plot) => plot.redraw());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

/**
 * A chart as a figure. `set({title, labels, series, axis, summary, columns, note})` shows figures: `labels` name the
 * places on the x axis, a series is `{label, values, kind: "bars" | "line" | "area" | "limit", colour, format}`,
 * `axis(ticks)` writes the y axis, `summary` says in a sentence what is seen. `destroy()` ends it.
 */
export function timeChart(caption) {
  const legend = h("div.legend");
  const canvas = h("div.plot", { role: "img" });
  const tip = h("div.tip", { hidden: true, "aria-hidden": "true" });
  const nothing = h("p.nothing", { hidden: true }, "Nothing in this period.");
  const note = h("p.muted.small.note", { hidden: true });
  const figures = h("div");
  const details = h("details.figures", h("summary", "The figures as a table"), figures);
  const element = h("figure.chart", h("figcaption", h("span.chart-title", caption), legend), h("div.stage", canvas, nothing, tip), note, details);
  let plot = null;
  let shape = "";
  let shown = null;
  const seen = new ResizeObserver(() => requestAnimationFrame(() => {
    if (plot && canvas.clientWidth) plot.setSize({ width: canvas.clientWidth, height: height() });
  }));
  seen.observe(canvas);
  const height = () => (canvas.clientWidth < 480 ? 170 : 210);

  function set(next) {
    shown = next;
    canvas.setAttribute("aria-label", next.summary);
    note.hidden = !next.note;
    note.textContent = next.note ?? "";
    legend.hidden = next.series.length < 2;
    fill(legend, next.series.map((series) => h("span.key", h(`span.swatch.${series.kind}.fill-${series.colour}`), series.label)));
    fill(figures, table(caption, next.columns, next.labels.map((label, index) => ({ label, index }))));
    // A bar of zero is nothing; a line at zero is a figure.
    const says = ({ kind, values }) => values.some((value) => (kind === "line" ? value !== null : value > 0));
    nothing.hidden = next.series.some((series) => series.kind !== "limit" && says(series));
    canvas.hidden = details.hidden = !nothing.hidden;
    if (canvas.hidden) return;
    const data = [next.labels.map((_, index) => index), ...next.series.map((series) => series.values)];
    // uPlot changes data easily, but not which series there are.
    const nextShape = JSON.stringify([next.labels.length, next.series.map(({ kind, colour: name }) => [kind, name])]);
    if (plot && shape === nextShape) return plot.setData(data);
    shape = nextShape;
    if (plot) forget(plot);
    plot = new uPlot(options(next.series, data[0].length), data, canvas);
    drawn.add(plot);
  }

  function options(series, length) {
    return {
      width: Math.max(canvas.clientWidth, 200),
      height: height(),
      padding: [12, 22, 0, 0],
      legend: { show: false },
      cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
      scales: {
        x: { time: false, range: () => [-0.6, length - 0.4] },
        y: { range: (_, __, max) => (max > 0 ? uPlot.rangeNum(0, max, ROUND) : [0, 1]) },
      },
      axes: [xAxis(), yAxis()],
      series: [{}, ...series.map(drawing)],
      hooks: { setCursor: [point] },
    };
  }

  function xAxis() {
    const splits = (u) => {
      const room = Math.max(2, Math.floor(u.bbox.width / devicePixelRatio / 64));
      const step = Math.max(1, Math.ceil(shown.labels.length / room));
      const last = shown.labels.length - 1;
      return shown.labels.map((_, index) => index).filter((index) => (last - index) % step === 0);
    };
    return axis({ splits, values: (_, at) => at.map((index) => shown.labels[index]), size: 28, grid: { show: false } });
  }

  function yAxis() {
    const size = (u, values) => {
      if (!values) return 40;
      return 14 + Math.ceil(Math.max(...values.map((text) => String(text ?? "").length)) * 7);
    };
    return axis({ values: (_, ticks) => shown.axis(ticks), size, space: 38, incrs: shown.whole ? WHOLE : undefined });
  }

  function point(u) {
    const index = u.cursor.idx;
    const off = index === null || index === undefined || u.cursor.left < 0;
    tip.hidden = off;
    if (off) return;
    const lines = shown.series.map((series) => h("div.tip-line", h(`span.swatch.${series.kind}.fill-${series.colour}`),
      h("span", series.label), h("b", series.format(series.values[index]))));
    fill(tip, h("div.tip-title", shown.names?.[index] ?? shown.labels[index]), lines, shown.more?.(index));
    const left = u.cursor.left + u.bbox.left / devicePixelRatio;
    const flip = left > canvas.clientWidth - tip.offsetWidth - 16;
    tip.style.setProperty("transform", `translate(${Math.round(flip ? left - tip.offsetWidth - 12 : left + 12)}px, 12px)`);
  }

  function destroy() {
    seen.disconnect();
    if (plot) forget(plot);
  }
  return { element, set, destroy };
}

// From zero to a round number above the highest.
const ROUND = { min: { pad: 0, soft: 0, mode: 1 }, max: { pad: 0.06, soft: 0, mode: 2 } };
const WHOLE = [1, 2, 5].flatMap((digit) => [0, 1, 2, 3, 4, 5, 6, 7, 8].map((power) => digit * 10 ** power)).sort((a, b) => a - b);

function forget(plot) {
  drawn.delete(plot);
  plot.destroy();
}

function axis(rest) {
  return {
    stroke: () => colour("muted"),
    font: '11.5px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif',
    ticks: { show: false },
    gap: 6,
    ...rest,
    grid: { stroke: () => colour("grid"), width: 1, ...rest.grid },
  };
}

function drawing({ kind, colour: name }) {
  const stroke = () => colour(name);
  if (kind === "bars") return { fill: stroke, stroke, width: 0, paths: uPlot.paths.bars({ size: [0.62, 44], radius: 0.18 }), points: { show: false } };
  if (kind === "limit") return { stroke, width: 1.5, dash: [5, 4], points: { show: false } };
  const line = { stroke, width: 2, points: { show: false } };
  return kind === "area" ? { ...line, fill: () => colour(`${name}-soft`) } : { ...line, points: { show: true, size: 5, fill: stroke } };
}

/** A list of amounts as bars beside each other: `rows` = `{name, value, text, sub?, colour?}`. */
export function barList(label, rows) {
  const most = Math.max(1, ...rows.map((row) => row.value));
  return h("ul.bars", { "aria-label": label }, rows.map((row) => h("li",
    h("div.bar-head", h("span.bar-name", row.name), h("span.bar-value", row.text)),
    bar([{ share: row.value / most, colour: row.colour ?? "accent" }]),
    row.sub && h("div.bar-sub", row.sub))));
}

/** One bar of parts; each part's share is of the whole bar's length. */
export function bar(parts) {
  const element = h("div.bar", { "aria-hidden": "true" });
  for (const part of parts) {
    const piece = h(`div.piece.fill-${part.colour}`);
    const share = Math.min(1, Math.max(0, part.share));
    piece.style.setProperty("width", `${(share * 100).toFixed(2)}%`);
    // What is there at all is seen.
    if (share > 0) piece.style.setProperty("min-width", "3px");
    element.append(piece);
  }
  return element;
}

/** How much of a limit is used and held, for the eye and for a screen reader. */
export function limitBar({ name, limit, used, held, text }) {
  const part = limit > 0 ? used / limit : 1;
  const tone = part >= 1 ? "danger" : part >= 0.8 ? "warn" : "accent";
  const element = bar([{ share: part, colour: tone }, { share: Math.min(limit > 0 ? held / limit : 0, Math.max(0, 1 - part)), colour: "held" }]);
  const now = Math.round(Math.min(1, (limit > 0 ? (used + held) / limit : 1)) * 100);
  element.removeAttribute("aria-hidden");
  for (const [key, value] of Object.entries({ role: "meter", "aria-label": name, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": now, "aria-valuetext": text })) {
    element.setAttribute(key, String(value));
  }
  return element;
}

// How numbers, money and times are written. Money comes as decimal strings of six places and stays an integer of
// micro-dollars here: nothing is summed in floats.

/** `"12.345678"` to micro-dollars. */
export function micros(text) {
  if (typeof text !== "string") return 0;
  const negative = text.startsWith("-");
  const [whole, part = ""] = text.replace("-", "").split(".");
  const value = Number(whole) * 1_000_000 + Number(part.padEnd(6, "0").slice(0, 6));
  return negative ? -value : value;
}

const dollarsWith = [0, 2, 4, 6].reduce((all, places) => {
  const options = { minimumFractionDigits: places, maximumFractionDigits: places };
  return { ...all, [places]: new Intl.NumberFormat("en-US", options) };
}, {});

/** As many decimals as an amount of this size needs: $12.30, $0.0123, $0.000123. */
function places(amount) {
  const size = Math.abs(amount);
  if (size % 10_000 === 0 || size >= 1_000_000) return 2;
  return size >= 1_000 ? 4 : 6;
}

function written(amount, decimals) {
  const sign = amount < 0 ? "−" : "";
  return `${sign}$${dollarsWith[decimals].format(Math.abs(amount) / 1_000_000)}`;
}

/** Micro-dollars for people. */
export const money = (amount) => written(amount, places(amount));

/** Dollars as the server writes them, without the zeros that say nothing: `$0.10`. */
export const price = (dollars) => `$${dollars.replace(/(\.\d\d\d*?)0+$/, "$1")}`;

/** One way of writing for a whole column, so that the points stand below each other. */
export function moneyColumn(amounts) {
  const decimals = places(Math.max(0, ...amounts));
  const smallest = 10 ** (6 - decimals);
  return (amount) => (amount > 0 && amount < smallest / 2 ? `<$${dollarsWith[decimals].format(smallest / 1_000_000)}` : written(amount, decimals));
}

/** For an axis: no more decimals than its steps need. */
export function moneyAxis(ticks) {
  const step = ticks.length > 1 ? Math.abs(ticks[1] - ticks[0]) : (ticks[0] ?? 0);
  const decimals = step >= 1_000_000 && step % 1_000_000 === 0 ? 0 : step >= 10_000 ? 2 : step >= 100 ? 4 : 6;
  return ticks.map((tick) => written(tick, decimals));
}

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en-US", { notation: "compact", maximumSignificantDigits: 3 });

/** A count: 12,345. */
export const count = (number) => whole.format(number ?? 0);
/** A count where room is short: 12.3K. */
export const compact = (number) => (Math.abs(number ?? 0) < 10_000 ? count(number) : short.format(number));
/** `1 request`, `2 requests`. */
export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** A share of a whole. */
export function percent(part, all) {
  if (!all) return "0%";
  const share = (part / all) * 100;
  if (part > 0 && share < 1) return "<1%";
  return share > 99 && share < 100 ? ">99%" : `${Math.round(share)}%`;
}

/** Milliseconds: 412 ms, 1.4 s. */
export function milliseconds(ms) {
  if (ms === null || ms === undefined) return "–";
  return ms < 1000 ? `${Math.round(ms)}\u00a0ms` : `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)}\u00a0s`;
}

/** A span: 4 s, 12 min, 9 h 12 min, 3 d 4 h. */
export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s}\u00a0s`;
  const m = Math.floor(s / 60);
  if (m < 60) return `${m}\u00a0min`;
  const hours = Math.floor(m / 60);
  if (hours < 48) return m % 60 ? `${hours}\u00a0h ${m % 60}\u00a0min` : `${hours}\u00a0h`;
  return hours % 24 && hours < 240 ? `${Math.floor(hours / 24)}\u00a0d ${hours % 24}\u00a0h` : `${Math.floor(hours / 24)}\u00a0d`;
}

const moment = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const momentOfYear = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** A time in the reader's own zone, as an element that also says it exactly. */
export function time(text, { ago = false } = {}) {
  const element = document.createElement("time");
  const date = new Date(text);
  if (text === null || text === undefined || Number.isNaN(date.getTime())) {
    element.textContent = "–";
    return element;
  }
  element.dateTime = text;
  element.title = text;
  const near = date.getFullYear() === new Date().getFullYear();
  // Where it must break, it breaks between the day and the hour.
  element.textContent = ago ? since(date) : (near ? moment : momentOfYear).format(date).replace(/^[^,]*/, (day) => day.replaceAll(" ", "\u00a0"));
  return element;
}

function since(date) {
  const seconds = (Date.now() - date.getTime()) / 1000;
  return seconds < 5 ? "just now" : `${span(seconds)} ago`;
}

/** Hours, minutes and seconds of a date. */
export const clockTime = (date) => clock.format(date);
/** The reader's time zone, by name. */
export const zone = () => Intl.DateTimeFormat().resolvedOptions().timeZone;

/** `2026-11-24` moved by days. */
export function addDays(day, days) {
  const date = new Date(`${day}T00:00:00Z`);
  date.setUTCDate(date.getUTCDate() + days);
  return date.toISOString().slice(0, 10);
}

const dayShort = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
const dayLong = new Intl.DateTimeFormat("en-GB", { weekday: "long", day: "numeric", month: "long", timeZone: "UTC" });
/** 24 Nov */
export const dayName = (day) => dayShort.format(new Date(`${day}T00:00:00Z`));
/** Tuesday, 24 November */
export const dayFull = (day) => dayLong.format(new Date(`${day}T00:00:00Z`));

/** An amount of a limit's unit: money as micro-dollars, counts as they are. */
export const amountOf = (unit, value) => (unit === "cost_usd" ? micros(value) : Number(value ?? 0));
/** The same for people. */
export const amountText = (unit, amount) => (unit === "cost_usd" ? money(amount) : count(amount));
/** What a unit is called. */
export const unitName = (unit) => ({ requests: "Requests", tokens: "Tokens", cost_usd: "Spend", images: "Images", audio_seconds: "Seconds of audio", characters: "Characters" })[unit] ?? unit;
/** What a window is called. */
export const perName = (per) => (per === "lifetime" ? "in a lifetime" : per === "period" ? "a billing period" : `a ${per}`).replace("a hour", "an hour");

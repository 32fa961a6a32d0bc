// Talking to Tollgate: requests with the session's cookie, and the live figures.

import { code, h } from "./dom.js";

/** What went wrong, in the server's words where it had some. */
export class ApiError extends Error {
  constructor(status, code, message, requestId, retryAfter) {
    super(message);
    Object.assign(this, { status, code, requestId, retryAfter });
  }
}

let signedOut = () => {};
/** Says what to do when the session is over. */
export const onSignedOut = (callback) => (signedOut = callback);

/** One request to `/admin/…`. Answers the JSON, or null where there is none. */
export async function api(path, { method = "GET", body, signal, query } = {}) {
  const given = Object.entries(query ?? {}).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const url = `/admin/${path}${given.length ? `?${new URLSearchParams(given)}` : ""}`;
  // A changing request must carry a header that no form of another site can send.
  const headers = method === "GET" ? {} : { "X-Tollgate-Csrf": "1" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    const payload = body === undefined ? undefined : JSON.stringify(body);
    response = await fetch(url, { method, headers, body: payload, signal, credentials: "same-origin", cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "unreachable", "Tollgate does not answer.", null, null);
  }
  if (response.ok) {
    const text = await response.text();
    return text ? JSON.parse(text) : null;
  }
  const told = await response.json().catch(() => null);
  const error = new ApiError(response.status, told?.error?.code ?? `http_${response.status}`,
    told?.error?.message ?? `The answer was ${response.status}.`,
    response.headers.get("x-request-id"), response.headers.get("retry-after"));
  if (error.status === 401 && path !== "session") signedOut();
  throw error;
}

/** The code of an error that is no answer of the server: a session that the browser did not keep. */
export const NOT_KEPT = "session_not_kept";

/** What can be done about an error, besides reading it. */
function advice(error) {
  if (error.code === NOT_KEPT) return "The page needs HTTPS or localhost: open it through a tunnel (ssh -L 9090:127.0.0.1:9090 server).";
  if (error.status === 0) return "Is the server running, and can this machine reach it? This page tries again by itself.";
  if (error.status === 401) return "The token is wrong, was revoked, or the session is over. Sign in again.";
  if (error.status === 403) return "This token may only read. Sign in with a token of scope write to change things.";
  if (error.status === 429) return `Too many tries. Wait ${error.retryAfter ?? "a few"} seconds.`;
  if (error.status >= 500) return "Run “tollgate doctor” on the server: it tries every part and says what to fix.";
  return "";
}

/** An error as a box, with a way to try again where there is one. */
export function errorBox(error, retry) {
  const hint = advice(error);
  return h("div.problem", { role: "alert" },
    h("p.problem-title", error.message),
    hint && h("p", hint),
    error.requestId && h("p.muted.small", "Request ", h("code", error.requestId), " in the server's log."),
    retry && h("button.button", { type: "button", onclick: retry }, "Try again"));
}

/** Whatever `error` is, as an [`ApiError`]; what is not one is a mistake of this page and goes to the console too. */
export function known(error) {
  if (error instanceof ApiError) return error;
  console.error(error);
  return new ApiError(-1, "page", `This page made a mistake: ${error.message}`, null, null);
}

const POLL_MS = 5_000;
const STREAM_AGAIN_MS = 30_000;
/** A stream that was silent so long is not one any more: an event comes every two seconds. */
const SILENCE_MS = 15_000;

/**
 * The live figures: by server-sent events, else by asking every few seconds. Calls `onOverview(object)` and
 * `onState("live" | "polling" | "lost")`. Answers a function that stops it.
 */
export function live(onOverview, onState) {
  let source = null;
  let stopped = false;
  let poller = 0;
  let opener = 0;
  let heard = Date.now();
  let state = "";
  const tell = (next) => {
    if (next !== state && !stopped) onState((state = next));
  };

  function open() {
    if (stopped) return;
    clearTimeout(opener);
    source?.close();
    source = new EventSource("/admin/events");
    source.addEventListener("overview", (event) => {
      heard = Date.now();
      clearTimeout(poller);
      poller = 0;
      tell("live");
      onOverview(JSON.parse(event.data));
    });
    source.addEventListener("error", fallBack);
  }

  function fallBack() {
    // The browser opens again by itself unless the server refused; then we do, more slowly.
    if (source.readyState === EventSource.CLOSED) opener = setTimeout(open, STREAM_AGAIN_MS);
    if (!poller) poll();
  }

  async function poll() {
    if (stopped) return;
    poller = setTimeout(poll, POLL_MS);
    try {
      const overview = await api("overview");
      if (!poller) return;
      tell("polling");
      onOverview(overview);
    } catch (error) {
      if (error.status !== 401) tell("lost");
    }
  }

  const watch = setInterval(() => {
    if (!poller && Date.now() - heard > SILENCE_MS) {
      heard = Date.now();
      open();
      poll();
    }
  }, 1_000);
  open();
  return () => {
    stopped = true;
    source?.close();
    clearTimeout(poller);
    clearTimeout(opener);
    clearInterval(watch);
  };
}

/** The line to send a first request with. */
export const firstRequest = () => code(
  "curl http://localhost:8080/api/chat \\\n" +
  "  -H \"Authorization: Bearer $(tollgate token --user 00000000-0000-4000-8000-000000000001)\" \\\n" +
  "  -H 'Content-Type: application/json' \\\n" +
  "  -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'");

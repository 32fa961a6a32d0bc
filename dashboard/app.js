// The frame: signing in and out, which page is shown, the theme, and whether the figures are live.

import { ApiError, NOT_KEPT, api, errorBox, known, live, onSignedOut } from "./api.js";
import { field, fill, h, icon, toast } from "./dom.js";
import { repaint } from "./charts.js";
import { auditPage } from "./audit.js";
import { modelsPage } from "./models.js";
import { openPage } from "./open.js";
import { overviewPage } from "./overview.js";
import { promptsPage } from "./prompts.js";
import { purchasesPage } from "./purchases.js";
import { userPage } from "./user.js";
import { usersPage } from "./users.js";
import { clockTime, zone } from "./format.js";

const app = document.getElementById("app");
const PAGES = [["#/", "Overview", overviewPage], ["#/users", "Users", usersPage], ["#/open", "Open", openPage], ["#/models", "Models", modelsPage], ["#/prompts", "Prompts", promptsPage], ["#/purchases", "Purchases", purchasesPage], ["#/audit", "Audit", auditPage]];
const THEMES = { auto: "As the system", light: "Light", dark: "Dark" };

const storage = {
  get(key) {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  },
  set(key, value) {
    try {
      if (value === null) localStorage.removeItem(key);
      else localStorage.setItem(key, value);
    } catch {
      // Storage is off: it is forgotten with this page.
    }
  },
};

let stop = () => {};
// The address names the page, so the link that skips to the content must leave it alone.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("main")?.focus();
});
onSignedOut(() => signIn("The session is over. Sign in again."));
start();

// The cookie cannot be read from here. Whether there may be one is remembered, so as not to ask in vain.
async function start() {
  if (!storage.get("tollgate.signed_in")) return signIn();
  try {
    frame(await api("session"));
  } catch (error) {
    if (error.status === 401) return signIn();
    fill(app, h("main.lonely", { id: "main" }, h("h1", "Tollgate"), errorBox(known(error), start)));
  }
}

function signIn(lead) {
  stop();
  closeDialogs();
  storage.set("tollgate.signed_in", null);
  document.title = "Sign in · Tollgate";
  const token = h("input", { type: "password", autocomplete: "current-password", required: true, spellcheck: "false", name: "token" });
  const problem = h("div");
  const button = h("button.button.primary.wide-button", { type: "submit" }, "Sign in");
  const form = h("form", { method: "post", action: "/admin/session", onsubmit: send },
    field("Admin token", token, "TOLLGATE_ADMIN_TOKEN, or one made by “tollgate admin-token create NAME --scope read”."), problem, button);
  fill(app, h("main.lonely", { id: "main", tabindex: "-1" }, h("div.card.sign-in",
    h("div.brand.large", h("span.mark", icon("gate")), h("h1", "Tollgate")),
    h("p.muted", lead ?? "See what your users spend, and control it."), form)));
  token.focus();

  async function send(event) {
    event.preventDefault();
    button.disabled = true;
    try {
      await api("session", { method: "POST", body: { token: token.value.trim() } });
      const session = await api("session").catch(notKept);
      storage.set("tollgate.signed_in", "1");
      frame(session);
    } catch (error) {
      fill(problem, errorBox(error.code === NOT_KEPT ? error : error.status === 401 ? Object.assign(error, { message: "This is not an admin token, or it was revoked." }) : known(error)));
      token.select();
    }
    button.disabled = false;
  }
}

// The token was right, and the browser kept no cookie: it is `Secure`, so a page by plain http keeps one on localhost at most.
function notKept(error) {
  throw error.status === 401 ? Object.assign(error, { code: NOT_KEPT, message: "The token is valid, but the browser does not keep the session." }) : error;
}

function frame(answer) {
  stop();
  const session = { ...answer, canWrite: answer.scopes.includes("write") };
  let page = null;
  let overview = null;
  const main = h("main", { id: "main", tabindex: "-1" });
  const state = h("span.state", { role: "status" });
  const version = h("span");
  const links = PAGES.map(([href, label]) => h("a", { href }, label));
  const themeButton = h("button.icon-button", { type: "button", onclick: nextTheme });
  const signOutButton = h("button.icon-button", { type: "button", "aria-label": "Sign out", title: "Sign out", onclick: signOut }, icon("leave"));
  const who = h("span.who", { title: session.canWrite ? "May read and write" : "May only read" }, session.name, !session.canWrite && h("span.badge", "read only"));

  fill(app,
    h("header.top", h("div.top-in", h("a.brand", { href: "#/" }, h("span.mark", icon("gate")), h("span", "Tollgate")),
      h("nav", { "aria-label": "Pages" }, links), h("div.top-right", state, who, themeButton, signOutButton))),
    main,
    h("footer", h("span", "Tollgate ", version), h("span", `Times are in ${zone()}; days are the server's.`)));
  showTheme();

  const stopLive = live((next) => {
    overview = next;
    version.textContent = next.version;
    state.dataset.at = clockTime(new Date());
    if (!page) route();
    else page.update?.(next);
  }, showState);
  addEventListener("hashchange", route);
  stop = () => {
    stopLive();
    removeEventListener("hashchange", route);
    page?.close();
    stop = () => {};
  };
  showState("connecting");
  fill(main, h("p.muted", { "aria-busy": "true" }, "Loading…"));
  // The overview waits for the first figures.
  route();

  function route(event) {
    const [path, search = ""] = location.hash.split("?");
    const userId = /^#\/users\/([^/]+)$/.exec(path)?.[1];
    const [href, label, open] = userId ? ["#/users", "User", userPage] : (PAGES.find(([one]) => one === path) ?? PAGES[0]);
    if (open === overviewPage && !overview) return;
    page?.close();
    closeDialogs();
    for (const link of links) {
      if (link.getAttribute("href") === href) {
        link.setAttribute("aria-current", "page");
        // On a phone the row of links is wider than the screen.
        link.scrollIntoView({ block: "nearest", inline: "nearest" });
      } else link.removeAttribute("aria-current");
    }
    document.title = `${label} · Tollgate`;
    page = open({ main, session, overview, id: userId && decoded(userId), query: new URLSearchParams(search) });
    scrollTo(0, 0);
    // A reader of screens learns that the page is another one.
    if (event) main.querySelector("h1")?.focus({ preventScroll: true });
  }

  function showState(next) {
    const text = { live: "Live", polling: "Every 5 s", lost: `Connection lost${state.dataset.at ? ` at ${state.dataset.at}` : ""}, trying again`, connecting: "Connecting" }[next];
    fill(state, h("span", { class: `dot ${{ live: "ok", polling: "warn", lost: "bad" }[next] ?? ""}` }), h("span.state-text", text));
    state.title = { live: "The figures update as they change.", polling: "Live updates do not get through; the page asks every 5 seconds." }[next] ?? "";
    document.body.classList.toggle("is-lost", next === "lost");
    if (next === "lost" && !page) fill(main, errorBox(known(new ApiError(0, "unreachable", "Tollgate does not answer.", null, null))));
  }

  function nextTheme() {
    const names = Object.keys(THEMES);
    const next = names[(names.indexOf(theme()) + 1) % names.length];
    storage.set("tollgate.theme", next === "auto" ? null : next);
    if (next === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    showTheme();
    repaint();
  }

  function showTheme() {
    fill(themeButton, icon(theme()));
    themeButton.setAttribute("aria-label", `Theme: ${THEMES[theme()]}. Change it`);
    themeButton.title = `Theme: ${THEMES[theme()]}`;
  }

  async function signOut() {
    try {
      await api("session", { method: "DELETE" });
    } catch (error) {
      if (error.status !== 401) return toast("Signing out failed: Tollgate does not answer. Try again.");
    }
    signIn("You are signed out.");
  }
}

// A dialog belongs to the page that opened it.
function closeDialogs() {
  document.querySelectorAll("dialog").forEach((dialog) => dialog.close());
}

function theme() {
  return document.documentElement.dataset.theme ?? "auto";
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

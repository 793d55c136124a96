// Router: chooses the view by the URL; API key dialog; color theme.

import { addItem } from "./add_item.js";
import { key, setKey } from "./api.js";
import { catalog, changed } from "./catalog.js";
import { el, say } from "./dom.js";
import { home } from "./home.js";
import { item } from "./item.js";
import { map } from "./map.js";
import { user } from "./user.js";
import { search } from "./search.js";

const VIEWS = { "": home, user, item, map, add: addItem };
const root = document.getElementById("main");
let leaving = new AbortController();
let first = true;

async function show() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const [, name = "", ...rest] = location.hash.split("/");
  const view = VIEWS[name] ?? home;
  for (const link of document.querySelectorAll("nav.views a")) {
    const here = link.dataset.view === (name === "" ? "home" : name);
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  root.setAttribute("aria-busy", "true");
  const before = document.activeElement;
  const slow = setTimeout(() => say("Loading"), 700);
  let title;
  try {
    title = await view(root, decoded(rest.join("/")), signal);
    if (signal.aborted) return;
    await served();
  } catch (error) {
    if (signal.aborted || error.name === "AbortError") return;
    title = "Error";
    root.replaceChildren(failure(error));
  } finally {
    clearTimeout(slow);
    if (!signal.aborted) root.removeAttribute("aria-busy");
  }
  document.title = `${title} · lirdrec`;
  if (!first) {
    scrollTo(0, 0);
    // do not take the focus from a user who is typing in the search or working in the new view
    const now = document.activeElement;
    if (now === before || now === document.body) root.querySelector("h1")?.focus({ preventScroll: true });
  }
  first = false;
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function failure(error) {
  const unknown = error.status === 404;
  const locked = error.status === 401;
  return el(
    "div",
    { class: "head" },
    el(
      "h1",
      { tabindex: "-1" },
      unknown ? "Not found" : locked ? "A key is needed" : "An error occurred",
    ),
    el("p", { class: "lead" }, locked ? "This server needs an API key." : error.message),
    el(
      "p",
      { class: "row" },
      locked
        ? el("button", { type: "button", class: "main", on: { click: () => askForKey() } }, "Enter the key")
        : !unknown && el("button", { type: "button", class: "main", on: { click: () => show() } }, "Try again"),
      el("a", { href: "#/" }, "Start page"),
    ),
  );
}

async function served() {
  const model = await catalog();
  const place = document.getElementById("served");
  const added = model.added ? `, ${model.added.toLocaleString("en")} added after training` : "";
  place.textContent = `Run ${model.run} · ${model.model ?? "model"} of ${model.dataset ?? "unnamed data"} · ${model.items.toLocaleString("en")} items${added} · lirdrec ${model.version}`;
}

// ---------------------------------------------------------------- API key

const dialog = document.getElementById("key-dialog");
const field = document.getElementById("key-field");
const button = document.getElementById("key");

function askForKey(wrong = false) {
  button.hidden = false;
  if (dialog.open) return;
  document.getElementById("key-title").textContent = wrong
    ? "This API key is unknown"
    : "This server needs an API key";
  field.value = "";
  dialog.returnValue = "";
  dialog.showModal();
}

document.addEventListener("key-wanted", (event) => askForKey(event.detail));
button.addEventListener("click", () => askForKey());
button.hidden = !key();
dialog.addEventListener("close", () => {
  if (dialog.returnValue !== "save" || !field.value.trim()) return;
  setKey(field.value.trim());
  field.value = "";
  changed();
  show();
});
document.getElementById("key-forget").addEventListener("click", () => {
  setKey(null);
  changed();
  dialog.close("forget");
  show();
});

// ---------------------------------------------------------------- color theme

const themes = { system: "as the system", light: "light", dark: "dark" };
const toggle = document.getElementById("theme");

function theme(name) {
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  try {
    if (name === "system") localStorage.removeItem("lirdrec-theme");
    else localStorage.setItem("lirdrec-theme", name);
  } catch {
    // chosen for this visit only
  }
  tellTheme();
  document.dispatchEvent(new Event("theme"));
}

function tellTheme() {
  const now = document.documentElement.dataset.theme ?? "system";
  document.getElementById("theme-said").textContent = `Colors: ${themes[now]}. Change`;
  toggle.title = `Colors: ${themes[now]}`;
}

toggle.addEventListener("click", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const order = dark ? ["system", "light", "dark"] : ["system", "dark", "light"];
  const now = document.documentElement.dataset.theme ?? "system";
  const next = order[(order.indexOf(now) + 1) % order.length];
  theme(next);
  say(`Colors: ${themes[next]}`);
});
tellTheme();

// move the focus to the content; the URL hash belongs to the router
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  root.focus();
  root.scrollIntoView();
});

search();
addEventListener("hashchange", () => {
  changed(); // another run may be served since
  show();
});
show();

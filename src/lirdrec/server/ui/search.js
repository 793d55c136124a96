// Search field: users and items in one list (ARIA combobox), for keyboard and pointer.

import { api, image } from "./api.js";
import { itemLink, userLink } from "./cards.js";
import { called } from "./catalog.js";
import { counted, debounced, el, icon, say } from "./dom.js";

const PEOPLE = 4;
const ITEMS = 7;

export function search() {
  const input = document.getElementById("query");
  const hits = document.getElementById("hits");
  let options = [];
  let active = -1;
  let running = null;
  let hasty = false; // Enter came before the hits

  const close = () => {
    hits.hidden = true;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
    active = -1;
  };
  const focused = () => document.activeElement === input;
  const choose = (at) => {
    active = at;
    options.forEach((one, place) => one.setAttribute("aria-selected", String(place === at)));
    if (at < 0) input.removeAttribute("aria-activedescendant");
    else {
      input.setAttribute("aria-activedescendant", options[at].id);
      options[at].scrollIntoView({ block: "nearest" });
    }
  };
  const go = (option) => {
    close();
    input.value = "";
    input.blur();
    location.hash = option.dataset.to;
  };
  const option = (to, ...inside) => {
    const made = el(
      "div",
      {
        class: "hit",
        role: "option",
        "aria-selected": "false",
        data: { to },
        on: { pointerdown: (event) => event.preventDefault(), click: () => go(made) },
      },
      inside,
    );
    return made;
  };
  const remark = (text) =>
    el("div", { class: "hit none", role: "option", "aria-disabled": "true", "aria-selected": "false" }, text);
  const show = (people, items) => {
    const groups = [];
    const group = (name, found) => {
      if (found.length)
        groups.push(
          el(
            "div",
            { role: "group", "aria-label": name },
            el("div", { class: "over", role: "presentation" }, name),
            found,
          ),
        );
    };
    const who = people.map((one) =>
      option(
        userLink(one.user),
        el("span", { class: "face" }, icon("user")),
        el("span", { class: "name" }, String(one.user)),
        el("span", { class: "quiet" }, `liked ${one.liked}`),
      ),
    );
    const what = items.map((one) =>
      option(
        itemLink(one.item),
        el("span", { class: "image" }, image(one.item)),
        el("span", { class: "name" }, called(one)),
        one.added && el("span", { class: "badge" }, "added"),
      ),
    );
    const digits = /^\d+$/.test(input.value.trim());
    for (const [name, found] of digits
      ? [
          ["Users", who],
          ["Items", what],
        ]
      : [
          ["Items", what],
          ["Users", who],
        ])
      group(name, found);
    options = digits ? [...who, ...what] : [...what, ...who];
    options.forEach((one, at) => (one.id = `hit-${at}`));
    if (!options.length) groups.push(remark("No user or item matches."));
    hits.replaceChildren(...groups);
    if (hasty && options.length) {
      go(options[0]);
      return;
    }
    hits.hidden = false;
    input.setAttribute("aria-expanded", "true");
    choose(-1);
    say(options.length ? `${counted(options.length, "hit")}; arrow keys choose` : "No user or item matches.");
  };
  const find = debounced(async () => {
    const query = input.value.trim();
    running?.abort();
    if (!query) {
      close();
      return;
    }
    running = new AbortController();
    const { signal } = running;
    try {
      const [people, items] = await Promise.all([
        api.users({ query, limit: PEOPLE }, signal),
        api.items({ query, limit: ITEMS }, signal),
      ]);
      if (focused()) show(people.users, items.items);
    } catch (error) {
      if (error.name === "AbortError" || !focused()) return;
      options = [];
      hits.replaceChildren(remark(error.message));
      hits.hidden = false;
      say(error.message);
    } finally {
      if (running?.signal === signal) hasty = false;
    }
  }, 130);

  input.addEventListener("input", find);
  input.addEventListener("focus", () => input.value.trim() && find());
  input.addEventListener("blur", () => setTimeout(() => !focused() && close(), 120));
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      close();
      return;
    }
    if (hits.hidden || !options.length) {
      hasty = event.key === "Enter" && hits.hidden && Boolean(input.value.trim());
      return;
    }
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const step = event.key === "ArrowDown" ? 1 : -1;
      choose((active + step + options.length + (active < 0 && step < 0 ? 1 : 0)) % options.length);
    } else if (event.key === "Enter") {
      event.preventDefault();
      go(options[Math.max(0, active)]);
    }
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, textarea, select, [contenteditable]");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      input.focus();
    }
  });
}

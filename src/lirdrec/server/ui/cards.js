// Item cards, and the bar that shows the parts of a score.

import { image } from "./api.js";
import { about, called, hue, partNames } from "./catalog.js";
import { calm, el, formatNumber } from "./dom.js";

export const itemLink = (id) => `#/item/${encodeURIComponent(String(id))}`;
export const userLink = (id) => `#/user/${encodeURIComponent(String(id))}`;

/**
 * The parts of a score beside each other, to a scale: `{ low, high }` of the sums of negative and of positive parts.
 * What adds to the score stands right of the line, what takes from it left.
 */
export function bar(model, parts, scale) {
  const span = Math.max(scale.high - scale.low, 1e-12);
  const names = partNames(model, parts);
  let left = 0;
  let right = 0;
  const pieces = names.map((name) => {
    const value = parts[name];
    const start = value < 0 ? (left += value) : right;
    if (value >= 0) right += value;
    return el("span", {
      class: "piece",
      vars: { "--at": (start - scale.low) / span, "--wide": Math.abs(value) / span, "--hue": hue(model, name) },
    });
  });
  const zero = el("span", { class: "zero", vars: { "--at": -scale.low / span } });
  return el("span", { class: "bar", role: "img", "aria-label": spoken(names, parts) }, pieces, scale.low < 0 && zero);
}

/** The scale that fits all of these. */
export function scaleOf(all) {
  const sums = all.map((parts) => Object.values(parts));
  const low = Math.min(0, ...sums.map((values) => total(values.filter((one) => one < 0))));
  const high = Math.max(0, ...sums.map((values) => total(values.filter((one) => one > 0))));
  return { low, high };
}

/** Which color is which part. */
export function legend(model) {
  return el(
    "ul",
    { class: "legend", "aria-label": "Parts of the score" },
    model.parts.map((name) => el("li", {}, el("i", { class: "dot", vars: { "--hue": hue(model, name) } }), name)),
  );
}

/**
 * A card. `one`: item, title, columns; `more`: rank, note, score, parts, scale, similarity, added, action (a node).
 */
export function card(model, one, more = {}) {
  const line = about(model, one.columns);
  const level = more.level ?? "h3";
  return el(
    "li",
    { class: "card", data: { item: String(one.item) } },
    el("div", { class: "image" }, image(one.item), more.rank && el("span", { class: "rank" }, String(more.rank))),
    el(
      "div",
      { class: "words" },
      el(level, {}, el("a", { href: itemLink(one.item), class: "whole" }, called(one))),
      line && el("p", { class: "quiet line" }, line),
      el(
        "div",
        { class: "below" },
        more.similarity !== undefined && likeness(more.similarity),
        more.parts && bar(model, more.parts, more.scale),
        (more.score !== undefined || more.action || more.note) &&
          el(
            "div",
            { class: "row" },
            more.score !== undefined && el("span", { class: "score" }, formatNumber(more.score)),
            more.note && el("span", { class: "note" }, more.note),
            more.action,
          ),
        more.added && el("span", { class: "badge" }, "added"),
      ),
    ),
  );
}

/** A grid of cards. */
export const grid = (cards, name) => el("ul", { class: "cards", "aria-label": name }, cards);

/** How near a neighbor is. */
function likeness(value) {
  const text = formatNumber(value);
  return el(
    "div",
    { class: "row" },
    el(
      "span",
      { class: "bar thin", role: "img", "aria-label": `similarity ${text}` },
      el("span", {
        class: "piece",
        vars: { "--at": 0, "--wide": Math.min(1, Math.max(0, value)), "--hue": "var(--gray)" },
      }),
    ),
    el("span", { class: "score", "aria-hidden": "true" }, text),
  );
}

/** Put new cards in the place of old ones; those that stay glide to where they belong. */
export function rearranged(list, cards) {
  const before = new Map([...list.children].map((one) => [one.dataset.item, one.getBoundingClientRect()]));
  list.replaceChildren(...cards);
  if (calm() || !list.animate) return;
  for (const one of cards) {
    const old = before.get(one.dataset.item);
    if (!old) {
      if (before.size) one.animate([{ opacity: 0 }, { opacity: 1 }], { duration: 260, easing: "ease-out" });
      continue;
    }
    const now = one.getBoundingClientRect();
    const x = old.left - now.left;
    const y = old.top - now.top;
    if (x || y)
      one.animate([{ transform: `translate(${x}px, ${y}px)` }, {}], {
        duration: 320,
        easing: "cubic-bezier(.2,.7,.2,1)",
      });
  }
}

const total = (values) => values.reduce((sum, one) => sum + one, 0);

function spoken(names, parts) {
  const said = names.map((name) => `${name} ${formatNumber(parts[name])}`).join(", ");
  return `${said}; together ${formatNumber(total(names.map((name) => parts[name])))}`;
}

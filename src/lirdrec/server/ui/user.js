// User view: liked items, recommendations and their explanations.

import { api, image, Problem } from "./api.js";
import { bar, card, grid, itemLink, legend, rearranged, scaleOf } from "./cards.js";
import { called, catalog, partNames, titleColumn } from "./catalog.js";
import { controls, request, untouched } from "./controls.js";
import { counted, el, icon, say, formatNumber } from "./dom.js";

const SHOWN = 30; // liked items shown at first
const STEP = 24; // recommendations per page
const MOST = 240;
let kept = null; // control settings are kept between users

export async function user(root, id, signal) {
  const model = await catalog();
  const who = await api.user(id, { limit: SHOWN }, signal);
  if (kept?.parts !== model.parts.join()) kept = { parts: model.parts.join(), state: untouched(model) };
  const { state } = kept;
  state.k = STEP;

  const list = grid([], "Recommended");
  const remark = el("p", { class: "quiet", id: "remark" });
  const history = el(
    "ul",
    { class: "strip", "aria-label": "Liked", tabindex: "0" },
    who.liked.map((one) => small(one)),
  );
  if (who.total > who.liked.length) history.append(moreHistory(who, signal));

  const further = el(
    "p",
    { class: "further", hidden: true },
    el("button", { type: "button", class: "plain", on: { click: () => longer() } }, "Show more"),
  );
  const longer = () => {
    state.k += STEP;
    ask();
  };

  let running = null;
  const ask = async () => {
    running?.abort();
    running = new AbortController();
    const own = running;
    signal.addEventListener("abort", () => own.abort());
    list.setAttribute("aria-busy", "true");
    try {
      const columns = shownColumns(model);
      const asked = { user: who.user, columns, ...request(state) };
      // the list with default weights, to compare ranks
      const base = { user: who.user, ...request({ ...state, weights: {} }), parts: false };
      const [answer, plain] = await Promise.all([
        api.recommend(asked, own.signal),
        asked.branch_weights ? api.recommend(base, own.signal) : null,
      ]);
      const items = answer.items.map((one) => ({ ...one, title: one.columns?.[titleColumn(model)] }));
      show(items, plain && new Map(plain.items.map((one, at) => [one.item, at + 1])));
    } catch (error) {
      if (error.name === "AbortError") return;
      remark.textContent = error.message;
      say(error.message);
    } finally {
      if (running === own) list.removeAttribute("aria-busy");
    }
  };
  const show = (items, usual) => {
    const scale = scaleOf(items.map((one) => one.parts));
    const cards = items.map((one, at) => {
      const why = el(
        "button",
        {
          type: "button",
          class: "plain small why-button",
          "aria-label": `Why ${called(one)}?`,
          on: { click: () => explain(model, who, one) },
        },
        "Why?",
      );
      return card(model, one, {
        rank: at + 1,
        score: one.score,
        parts: one.parts,
        scale,
        note: usual && moved(usual, one.item, at + 1),
        added: one.added,
        action: why,
      });
    });
    rearranged(list, cards);
    further.hidden = items.length < state.k || state.k >= MOST;
    remark.textContent = items.length ? "" : "No item satisfies the filters: change them under “Filters”.";
    say(items.length ? `${counted(items.length, "item")}, first ${called(items[0])}` : remark.textContent);
  };

  root.replaceChildren(
    el(
      "div",
      { class: "head" },
      el("p", { class: "over" }, who.known ? "A user" : "A new user"),
      el("h1", { tabindex: "-1" }, String(who.user)),
      el("p", { class: "lead" }, `Liked ${counted(who.total, "item")}.`, who.weights && gives(who.weights)),
    ),
    who.liked.length ? el("section", { class: "liked" }, el("h2", {}, "Liked items"), history) : "",
    el(
      "div",
      { class: "beside" },
      el("aside", { "aria-label": "How to rank" }, foldable(controls(model, state, ask))),
      el(
        "section",
        { class: "found", "aria-label": "Recommendations" },
        el("div", { class: "row apart" }, el("h2", {}, "Recommendations"), legend(model)),
        remark,
        list,
        further,
      ),
    ),
  );
  await ask();
  return `User ${who.user}`;
}

/** Columns that cards show; a table may have many more. */
export const shownColumns = (model) =>
  model.table
    .filter((one) => one.kind !== "text" || one.name === titleColumn(model))
    .map((one) => one.name)
    .slice(0, 12);

const moved = (usual, item, now) => {
  const before = usual.get(item);
  if (before === undefined) return "new";
  return before === now ? null : `was ${before}`;
};

const gives = (weights) => {
  const [[name, share]] = Object.entries(weights).sort((a, b) => b[1] - a[1]);
  return Math.abs(share - 1 / Object.keys(weights).length) > 0.02
    ? ` Goes most by ${name} (${formatNumber(share * 100, 0)} %).`
    : "";
};

function small(one, moved) {
  return el(
    "li",
    { class: "mini" },
    el(
      "a",
      { href: itemLink(one.item) },
      el("span", { class: "image" }, image(one.item)),
      el("span", { class: "name" }, called(one)),
      moved != null && el("span", { class: "quiet" }, `${moved > 0 ? "+" : ""}${formatNumber(moved, 3)}`),
    ),
  );
}

function moreHistory(who, signal) {
  let offset = who.liked.length;
  const button = el("button", { type: "button", class: "plain small" }, `${who.total - offset} more`);
  const last = el("li", { class: "more" }, button);
  button.addEventListener("click", async () => {
    try {
      const next = await api.user(who.user, { offset, limit: 100 }, signal);
      const cards = next.liked.map((one) => small(one));
      last.before(...cards);
      cards[0]?.querySelector("a").focus();
      offset += next.liked.length;
      if (offset >= next.total || !cards.length) last.remove();
      else button.textContent = `${next.total - offset} more`;
    } catch (error) {
      if (error instanceof Problem) say(error.message);
    }
  });
  return last;
}

/** On a narrow page the controls are folded away. */
function foldable(inside) {
  const wide = matchMedia("(min-width: 56rem)").matches;
  return el("details", { class: "fold", open: wide }, el("summary", {}, "Weights, diversity, new items, filters"), inside);
}

async function explain(model, who, one) {
  const dialog = document.getElementById("why");
  const near = el("div", { class: "near" }, el("p", { class: "quiet" }, "…"));
  const close = el(
    "button",
    { type: "button", class: "tool", on: { click: () => dialog.close() } },
    el("span", { class: "unseen" }, "Close"),
    icon("close"),
  );
  dialog.replaceChildren(
    el("div", { class: "row apart top-row" }, el("h2", { id: "why-title" }, `Why ${called(one)}?`), close),
    el("div", { class: "whole-score" }, bar(model, one.parts, scaleOf([one.parts])), partsTable(model, one)),
    near,
    el(
      "p",
      { class: "row end" },
      el("a", { href: itemLink(one.item), on: { click: () => dialog.close() } }, "Show the item"),
    ),
  );
  dialog.showModal();
  try {
    const reasons = await api.explain(who.user, one.item);
    near.replaceChildren(...because(reasons));
  } catch (error) {
    near.replaceChildren(el("p", { class: "quiet" }, error.message));
  }
}

function partsTable(model, one) {
  const rows = partNames(model, one.parts).map((name) =>
    el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, formatNumber(one.parts[name], 3))),
  );
  const sum = el("tr", { class: "sum" }, el("th", { scope: "row" }, "score"), el("td", {}, formatNumber(one.score, 3)));
  return el("table", { class: "parts" }, el("tbody", {}, rows, sum));
}

function because(reasons) {
  if (!reasons.liked.length) return [el("p", { class: "quiet" }, "The user has no liked items to compare it with.")];
  const title = reasons.liked[0].moved == null ? "Similar liked items" : "How much each liked item moved the score";
  return [
    el("h3", {}, title),
    el(
      "ul",
      { class: "strip wrap", "aria-label": title },
      reasons.liked.map((one) => small(one, one.moved)),
    ),
  ];
}

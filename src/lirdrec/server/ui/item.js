// Item view: the item's columns, audience, most similar items and position on the map.

import { api, image } from "./api.js";
import { bar, card, grid, legend, scaleOf, userLink } from "./cards.js";
import { called, catalog, changed, shown, titleColumn } from "./catalog.js";
import { counted, el, say, formatNumber } from "./dom.js";
import { ScatterPlot } from "./scatter.js";

const NEIGHBORS = 12;

export async function item(root, id, signal) {
  const model = await catalog();
  const one = await api.item(id, signal);
  const near = await api.similar(one.item, NEIGHBORS, signal);
  const isNew = sessionNews.delete(String(one.item));
  const people = el("div", {}, el("p", { class: "quiet" }, "…"));
  const place = el("div", { class: "locality" });

  root.replaceChildren(
    isNew ? banner(one, near) : "",
    el(
      "div",
      { class: "item-head" },
      el("div", { class: "image large" }, image(one.item)),
      el(
        "div",
        {},
        el("p", { class: "over" }, "An item", one.added && el("span", { class: "badge" }, "added")),
        el("h1", { tabindex: "-1" }, called(one)),
        details(model, one),
        one.added && removal(one),
      ),
    ),
    el("section", {}, el("h2", {}, "Users with high scores for it"), people),
    el(
      "section",
      {},
      el("h2", {}, "Similar items"),
      el("p", { class: "quiet between" }, lies(near)),
      grid(
        near.neighbors.map((other) => card(model, { ...other, columns: {} }, { similarity: other.similarity })),
        "Similar items",
      ),
    ),
    place,
  );
  audience(model, one, people, signal);
  if (model.hasMap) locality(one, near, place, signal);
  return called(one);
}

/** Ids of items added from this page; their item view shows a banner. */
export const sessionNews = new Set();

const lies = ({ neighbors }) => {
  if (neighbors.length < 2) return "There are no similar items.";
  return `The most similar items are “${called(neighbors[0])}” and “${called(neighbors[1])}”.`;
};

function banner(one, near) {
  const text = `“${called(one)}” is in the catalog and recommended from now on.`;
  say(`${text} ${lies(near)}`);
  return el("p", { class: "banner" }, el("strong", {}, "Added. "), `${text} ${lies(near)}`);
}

function details(model, one) {
  const title = titleColumn(model);
  const columns = Object.entries(one.columns).filter(
    ([name, value]) => name !== title && name !== "image" && value !== null && value !== "",
  );
  return el(
    "dl",
    {},
    el("dt", {}, "id"),
    el("dd", {}, String(one.item)),
    columns.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, shown(value))]),
  );
}

function removal(one) {
  const button = el("button", { type: "button", class: "plain danger" }, "Remove it");
  let sure = false;
  button.addEventListener("click", async () => {
    if (!sure) {
      sure = true;
      button.textContent = "Remove it for good?";
      say("Press again to remove it for good.");
      return;
    }
    try {
      await api.remove(one.item);
      changed();
      location.hash = "#/";
      say(`${called(one)} was removed.`);
    } catch (error) {
      button.replaceWith(el("p", { class: "fault", role: "alert" }, error.message));
    }
  });
  button.addEventListener("blur", () => {
    sure = false;
    button.textContent = "Remove it";
  });
  return el("p", {}, button);
}

async function audience(model, one, place, signal) {
  try {
    const found = await api.audience(one.item, 12, signal);
    const scale = scaleOf(found.members.map((member) => member.parts));
    place.replaceChildren(
      el(
        "div",
        { class: "row apart" },
        el("p", { class: "quiet" }, reach(found)),
        found.members.length ? legend(model) : "",
      ),
      el(
        "ol",
        { class: "people", "aria-label": "Users with high scores for it" },
        found.members.map((member) =>
          el(
            "li",
            {},
            el("a", { href: userLink(member.user), class: "who" }, String(member.user)),
            el("span", { class: "rank-note" }, `rank ${formatNumber(member.rank)}`),
            bar(model, member.parts, scale),
            el("span", { class: "score" }, formatNumber(member.score)),
          ),
        ),
      ),
    );
  } catch (error) {
    if (error.name !== "AbortError") place.replaceChildren(el("p", { class: "quiet" }, error.message));
  }
}

function reach(found) {
  const share = found.reach * 100;
  const some = share === 0 ? "No user" : `About ${share < 1 ? "less than 1" : formatNumber(Math.round(share))} % of the users`;
  const known = found.liked ? ` ${counted(found.liked, "user")} liked it already.` : "";
  return `${some} would have it in the first ${found.listed} recommendations.${known} These have the highest scores, with its rank in their lists.`;
}

async function locality(one, near, place, signal) {
  try {
    const points = await api.map(null, signal);
    const at = points.items.indexOf(one.item);
    if (at < 0) return;
    const canvas = el("canvas", {
      role: "img",
      "aria-label": `A map of the catalog around ${called(one)}; similar items are listed above`,
    });
    place.replaceChildren(el("h2", {}, "Position on the map"), el("div", { class: "chart small" }, canvas));
    const around = near.neighbors.map((other) => points.items.indexOf(other.item)).filter((other) => other >= 0);
    const plane = new ScatterPlot(canvas, points, { fixed: true });
    plane.mark(at, around.slice(0, 6));
    plane.fit([at, ...around.slice(0, 4)], 0.3);
    signal.addEventListener("abort", () => plane.stop());
  } catch {
    place.replaceChildren(); // the view is complete without a map
  }
}

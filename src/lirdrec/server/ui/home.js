// Start view: facts about the run, links to users, the most popular items.

import { api } from "./api.js";
import { card, grid, userLink } from "./cards.js";
import { catalog } from "./catalog.js";
import { counted, el, formatNumber, icon } from "./dom.js";

const PEOPLE = 6;

export async function home(root, _, signal) {
  const model = await catalog();
  const [most, someone] = await Promise.all([api.items({ limit: 12 }, signal), some(model, signal)]);
  root.replaceChildren(
    el(
      "div",
      { class: "head wide" },
      el("h1", { tabindex: "-1" }, "Recommendations for a user"),
      el("p", { class: "lead" }, facts(model)),
      el(
        "div",
        { class: "chips" },
        el("span", { class: "quiet", id: "people" }, "Choose a user"),
        el(
          "ul",
          { class: "row", "aria-labelledby": "people" },
          someone.map((one) =>
            el("li", {}, el("a", { class: "chip", href: userLink(one.user) }, icon("user"), String(one.user))),
          ),
        ),
        el("button", { type: "button", class: "chip", on: { click: () => randomUser(model) } }, "A random user"),
      ),
    ),
    model.added > 0 ? exposure(model) : "",
    el(
      "section",
      {},
      el("h2", {}, "Most liked items"),
      grid(
        most.items.map((one) => card(model, one, { added: one.added })),
        "Most liked",
      ),
    ),
  );
  return "Start";
}

const facts = (model) => {
  const how = model.parts.length > 1 ? ` Parts of the score: ${model.parts.join(", ").replace(/, ([^,]*)$/, " and $1")}.` : "";
  return `${counted(model.items, "item")}, ${counted(model.users, "user")}.${how}`;
};

/** What share of the lists new items got. */
function exposure(model) {
  const { places, share_of_places: ofPlaces, likes, share_of_likes: ofLikes } = model.exposure;
  const percent = (share) => `${formatNumber(100 * share, 1)} %`;
  const shown = places
    ? `New items got ${percent(ofPlaces)} of ${counted(places, "place")} in lists since the server started`
    : "No list was sent since the server started";
  const taken = likes ? `, and ${percent(ofLikes)} of ${counted(likes, "like")}.` : ".";
  return el(
    "section",
    { id: "exposure" },
    el("h2", {}, "New items"),
    el("p", {}, `${counted(model.added, "item")} added after training. `, shown, taken),
  );
}

async function some(model, signal) {
  const step = Math.floor(model.users / PEOPLE);
  const asked = Array.from({ length: Math.min(PEOPLE, model.users) }, (_, at) =>
    api.users({ limit: 1, offset: at * step }, signal),
  );
  return (await Promise.all(asked)).flatMap((one) => one.users);
}

async function randomUser(model) {
  const { users } = await api.users({ limit: 1, offset: Math.floor(Math.random() * model.users) });
  if (users.length) location.hash = userLink(users[0].user);
}

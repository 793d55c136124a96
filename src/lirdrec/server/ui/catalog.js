// Description of the served run: loaded once, and again after a change.

import { api } from "./api.js";
import { formatNumber } from "./dom.js";

// the same names, in the same order, as lirdrec.data.titles.TITLES
const TITLES = [
  "title", "name", "item_name", "product_name", "product_title", "movie_title", "book_title", "book-title",
  "prod_name", "app_name",
];
// of the parts of a score, in the order of the model; more than six are unheard of
const HUES = ["--c0", "--c3", "--c1", "--c2", "--c5", "--c4"];

let asked = null;

/** The answers of /model and /facets, together. */
export function catalog() {
  asked ??= Promise.all([api.model(), api.columns()]).then(([model, columns]) => ({
    ...model,
    table: columns.columns,
    hasMap: columns.map,
  }));
  asked.catch(() => (asked = null));
  return asked;
}

/** Ask again: items were added or removed, or the key has changed. */
export function changed() {
  asked = null;
}

/** The CSS color of a part of the score; gray for one that is not of the model, as the offset of new items. */
export const hue = (model, name) =>
  model.parts.includes(name) ? `var(${HUES[model.parts.indexOf(name) % HUES.length]})` : "var(--gray)";

/** The names of the parts of one score: those of the model, and others that are not 0. */
export const partNames = (model, parts) => [
  ...model.parts.filter((name) => name in parts),
  ...Object.keys(parts).filter((name) => !model.parts.includes(name) && parts[name] !== 0),
];

/** The column that a person reads as the title, or null. */
export const titleColumn = (model) => 
  TITLES.map((name) => Object.keys(model.columns).find((one) => one.toLowerCase() === name)).find(Boolean) ?? null;

/** What to call an item. */
export const called = (one) => one.title || `Item ${one.item}`;

/** A short line about an item: the first of its texts that is no title. */
export function about(model, columns) {
  const title = titleColumn(model);
  for (const { name, kind } of model.table) {
    const value = columns?.[name];
    if (name === title || value === null || value === undefined || value === "") continue;
    if (kind === "choice" || kind === "list") return String(value);
  }
  return "";
}

/** A value of a column as text. */
export function shown(value) {
  if (value === null || value === undefined || value === "") return "–";
  if (typeof value === "number") return formatNumber(value);
  if (typeof value === "boolean") return value ? "yes" : "no";
  return Array.isArray(value) ? value.join(", ") : String(value);
}

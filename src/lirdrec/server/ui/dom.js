// Create DOM elements. Catalog data become text nodes and attributes, never markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element.
 * `given`: attributes; and `on` (event → function), `vars` (CSS variable → value), `data` (name → text).
 * null, undefined and false are left out, true becomes an empty attribute. Children: nodes, texts, lists of them.
 */
export function el(tag, given = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, run] of Object.entries(value)) made.addEventListener(event, run);
    else if (name === "vars") for (const [key, one] of Object.entries(value)) made.style.setProperty(key, String(one));
    else if (name === "data") Object.assign(made.dataset, value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.flat(3).filter((one) => one !== null && one !== undefined && one !== false));
  return made;
}

/** One of the icons of index.html; said to nobody, so what it stands for must be text beside it. */
export function icon(name) {
  const made = document.createElementNS(SVG, "svg");
  made.setAttribute("class", "icon");
  made.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  made.append(use);
  return made;
}

/** Announce a text to screen readers. */
export function say(text) {
  const place = document.getElementById("said");
  place.textContent = "";
  requestAnimationFrame(() => (place.textContent = text));
}

/** The last of many calls in a row, after a rest of `ms`. */
export function debounced(run, ms) {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => run(...given), ms);
  };
}

/** A number for people; one that is too large for JavaScript came as text. */
export function formatNumber(number, digits = 2) {
  if (typeof number === "string") return number;
  if (Number.isInteger(number)) return number.toLocaleString("en");
  const most = Math.abs(number) >= 100 ? 1 : digits;
  return number.toLocaleString("en", { minimumFractionDigits: most, maximumFractionDigits: most }).replace("-", "−");
}

/** "1 person", "7 people". */
export function counted(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

export const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

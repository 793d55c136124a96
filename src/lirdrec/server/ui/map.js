// Map view: the catalog as points colored by a column, with a list of the visible items for keyboard users.

import { api, image } from "./api.js";
import { itemLink } from "./cards.js";
import { catalog } from "./catalog.js";
import { counted, debounced, el, icon, say, formatNumber } from "./dom.js";
import { HUES, ScatterPlot } from "./scatter.js";

const LISTED = 40;

export async function map(root, _, signal) {
  const model = await catalog();
  if (!model.hasMap) {
    const why =
      "This model compares items without vectors of them, so there is nothing to draw. Open an item to see similar items.";
    root.replaceChildren(
      el("div", { class: "head" }, el("h1", { tabindex: "-1" }, "There is no map"), el("p", { class: "lead" }, why)),
    );
    return "Map";
  }
  const columns = model.table.filter((one) => one.colors).map((one) => one.name);
  let points = await api.map(columns[0] ?? null, signal);
  const titled = (at) => points.titles[at] || `Item ${points.items[at]}`;

  const canvas = el("canvas", {
    tabindex: "0",
    role: "img",
    "aria-label":
      "Map of the catalog. Arrow keys move it, plus and minus zoom, zero shows all; what is in view is listed below.",
  });
  const tip = el("div", { class: "tip", hidden: true });
  const key = el("div", { class: "key" });
  const list = el("ul", { class: "rows", "aria-label": "In view", tabindex: "0" });
  const inView = el("h2", {}, "In view");
  const chart = el("div", { class: "chart" }, canvas, tip, buttons());
  const chooser = el(
    "select",
    { id: "color-by" },
    el("option", { value: "" }, "nothing"),
    columns.map((name) => el("option", { value: name, selected: name === points.column }, name)),
  );
  const finder = el("input", { id: "map-find", type: "search", placeholder: "part of a title", autocomplete: "off" });
  const remark = el("p", { class: "quiet" }, explained(points));

  root.replaceChildren(
    el("div", { class: "head" }, el("h1", { tabindex: "-1" }, "The catalog as a map"), remark),
    el(
      "div",
      { class: "bar-of-tools" },
      el("div", { class: "field" }, el("label", { for: "color-by" }, "Color by"), chooser),
      el("div", { class: "field" }, el("label", { for: "map-find" }, "Find"), finder),
    ),
    key,
    el(
      "div",
      { class: "map" },
      chart,
      el("section", { class: "in-view", "aria-label": "Items in view" }, inView, list),
    ),
  );

  const listing = debounced(() => {
    const places = plane.inView();
    inView.textContent = `In view: ${counted(places.length, "item")}`;
    const focused = list.contains(document.activeElement) && document.activeElement.getAttribute("href");
    list.replaceChildren(...places.slice(0, LISTED).map((at) => mini(at)));
    if (focused) list.querySelector(`[href="${CSS.escape(focused)}"]`)?.focus();
    if (places.length > LISTED)
      list.append(el("li", { class: "quiet rest" }, `and ${formatNumber(places.length - LISTED)} more; zoom in to see them`));
  }, 140);
  const plane = new ScatterPlot(canvas, points, {
    moved: listing,
    chosen: (at) => (location.hash = itemLink(points.items[at])),
    hovered: (at, x, y) => point(at, x, y),
  });
  plane.fit();
  signal.addEventListener("abort", () => plane.stop());
  legend();

  chooser.addEventListener("change", async () => {
    try {
      points = await api.map(chooser.value || null, signal);
      plane.color(points);
      legend();
      listing();
      say(chooser.value ? `Colored by ${chooser.value}` : "One color");
    } catch (error) {
      say(error.message);
    }
  });
  finder.addEventListener(
    "input",
    debounced(() => {
      const text = finder.value.trim().toLowerCase();
      const found = text
        ? points.titles.flatMap((title, at) => (title.toLowerCase().includes(text) ? [at] : []))
        : null;
      plane.shown = found && new Set(found);
      if (found?.length) plane.fit(found, 0.2);
      else if (!found) plane.fit();
      plane.changed();
      if (found) say(counted(found.length, "item"));
    }, 200),
  );

  function legend() {
    const { labels, kind, codes } = points;
    if (!labels) {
      key.replaceChildren();
      return;
    }
    const counts = labels.map((_, code) => codes.filter((one) => one === code).length);
    const none = codes.filter((one) => one < 0).length;
    const entries = labels.map((label, code) => [label, code, counts[code]]);
    if (none) entries.push(["none", -1, none]);
    key.replaceChildren(
      el(
        "ul",
        { class: "legend", "aria-label": `Colors of ${points.column}` },
        entries.map(([label, code, count]) =>
          el(
            "li",
            {},
            el(
              "button",
              {
                type: "button",
                class: "swatch",
                "aria-pressed": "true",
                on: {
                  click: (event) => {
                    const on = plane.hidden.delete(code);
                    if (!on) plane.hidden.add(code);
                    event.currentTarget.setAttribute("aria-pressed", String(on));
                    plane.changed();
                  },
                },
              },
              el("i", { class: "dot", vars: { "--hue": hueOf(code, kind) } }),
              label,
              el("span", { class: "quiet" }, formatNumber(count)),
            ),
          ),
        ),
      ),
      model.table.find((one) => one.name === points.column)?.kind === "list"
        ? el("p", { class: "quiet" }, "Of several values the first is used.")
        : "",
    );
  }

  function mini(at) {
    const enter = () => plane.hover(at);
    const leave = () => plane.hover(-1);
    const link = el(
      "a",
      { href: itemLink(points.items[at]), on: { focus: enter, blur: leave, pointerenter: enter, pointerleave: leave } },
      el("span", { class: "image" }, image(points.items[at])),
      el("span", { class: "name" }, titled(at)),
      points.codes && el("i", { class: "dot", vars: { "--hue": hueOf(points.codes[at], points.kind) } }),
    );
    return el("li", {}, link);
  }

  function point(at, x, y) {
    tip.hidden = at < 0;
    if (at < 0) return;
    const value = points.labels && points.codes[at] >= 0 ? points.labels[points.codes[at]] : "";
    tip.replaceChildren(
      el("span", { class: "image" }, image(points.items[at])),
      el("span", {}, el("strong", {}, titled(at)), value && el("span", { class: "quiet" }, value)),
    );
    const wide = tip.offsetWidth;
    const high = tip.offsetHeight;
    tip.style.setProperty("--x", `${Math.max(6, Math.min(x + 14, plane.width - wide - 6))}px`);
    tip.style.setProperty("--y", `${y + 18 + high > plane.height ? Math.max(6, y - high - 14) : y + 18}px`);
  }

  function buttons() {
    const one = (name, said, run) =>
      el(
        "button",
        { type: "button", class: "tool", title: said, on: { click: run } },
        el("span", { class: "unseen" }, said),
        icon(name),
      );
    return el(
      "div",
      { class: "zoom" },
      one("plus", "Zoom in", () => plane.zoom(1.5)),
      one("minus", "Zoom out", () => plane.zoom(1 / 1.5)),
      one("fit", "Show all", () => plane.fit()),
    );
  }
  return "Map";
}

function hueOf(code, kind) {
  if (code < 0) return "var(--gray)";
  if (kind === "number") return `var(--s${code})`;
  return HUES[code] ? `var(${HUES[code]})` : "var(--gray)";
}

function explained(points) {
  const share = Math.round(100 * (points.explained[0] + points.explained[1]));
  const some =
    points.items.length < points.total
      ? ` ${formatNumber(points.items.length)} of ${counted(points.total, "item")} are drawn.`
      : "";
  return `Items with similar vectors are near each other. The two axes have ${share} % of the variance.${some}`;
}

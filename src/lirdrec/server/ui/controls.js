// Controls of a recommendation list: branch weights, diversity, filters.

import { hue, titleColumn } from "./catalog.js";
import { debounced, el, formatNumber } from "./dom.js";

const HIGHEST = 2;

/**
 * The controls. `state` keeps their values between visits; `changed` is called when something was turned.
 * Returns the element.
 */
export function controls(model, state, changed) {
  const soon = debounced(changed, 160);
  const weighed = model.parts.length > 1 ? weights(model, state, soon) : null;
  const variety = slider(
    "Diversity",
    {
      min: 0,
      max: 0.9,
      step: 0.1,
      value: state.diversity,
      said: (x) => (x ? formatNumber(x, 1) : "off"),
      testid: "diversity",
    },
    (value) => {
      state.diversity = value;
      soon();
    },
  );
  const again = el("input", {
    type: "checkbox",
    id: "seen",
    checked: !state.excludeSeen,
    on: {
      change: (event) => {
        state.excludeSeen = !event.target.checked;
        changed();
      },
    },
  });
  return el(
    "div",
    { class: "controls" },
    weighed,
    el(
      "section",
      { "aria-label": "List" },
      el("h2", {}, "List"),
      variety.element,
      el("label", { class: "check" }, again, "Include liked items"),
    ),
    model.added > 0 ? newItems(model, state, changed, soon) : null,
    filters(model, state, changed, soon),
  );
}

/** The state before anything was turned. */
export const untouched = (model) => ({
  weights: Object.fromEntries(model.parts.map((name) => [name, 1])),
  diversity: 0,
  excludeSeen: true,
  newItems: { kind: "calibrated", boost: 5, share: 20 }, // of the last two, the percentages
  filter: {},
  k: 0, // the view says how many
});

/** The state as a request. */
export function request(state) {
  const turned = Object.entries(state.weights).filter(([, value]) => value !== 1);
  return {
    k: state.k,
    parts: true,
    exclude_seen: state.excludeSeen,
    diversity: state.diversity,
    ...(turned.length ? { branch_weights: Object.fromEntries(turned) } : {}),
    ...(state.newItems.kind === "calibrated" ? {} : { new_items: policy(state.newItems) }),
    ...(Object.keys(state.filter).length ? { filter: state.filter } : {}),
  };
}

const policy = ({ kind, ...percentages }) => (kind in percentages ? { [kind]: percentages[kind] / 100 } : kind);

/** How items that were added after training compete. */
function newItems(model, state, changed, soon) {
  const chosen = state.newItems;
  const hint = el("p", { class: "quiet", id: "new-items-hint" });
  const percent = (kind, name, max) =>
    slider(name, { min: 0, max, step: 1, value: chosen[kind], said: (x) => `${x} %`, testid: `new-${kind}` }, (value) => {
      chosen[kind] = value;
      tell();
      soon();
    }).element;
  const turned = { boost: percent("boost", "Largest cost", 30), share: percent("share", "Share of the places", 100) };
  const kinds = [
    ["calibrated", "Calibrated"],
    ["none", "No correction"],
    ["boost", "Boost"],
    ["share", "Fixed share"],
  ];
  const select = el(
    "select",
    {
      id: "new-items",
      "aria-describedby": hint.id,
      on: {
        change: (event) => {
          chosen.kind = event.target.value;
          tell();
          changed();
        },
      },
    },
    kinds.map(([value, text]) =>
      el("option", { value, selected: chosen.kind === value, disabled: value === "boost" && !model.boost }, text),
    ),
  );
  const tell = () => {
    for (const [kind, element] of Object.entries(turned)) element.hidden = chosen.kind !== kind;
    hint.textContent = {
      calibrated: "New items rank by their scores, with the correction that was found at the end of training.",
      none: "New items rank by their scores alone. They seldom come up among all items.",
      boost: `Boost: may cost about ${chosen.boost} % of the hits on known items.`,
      share: `New items get ${chosen.share} % of the places, whatever their scores.`,
    }[chosen.kind];
  };
  tell();
  return el(
    "section",
    { "aria-label": "New items" },
    el("h2", {}, "New items"),
    el("div", { class: "field" }, el("label", { for: "new-items" }, "Ranking"), select),
    turned.boost,
    turned.share,
    hint,
    !model.boost && el("p", { class: "quiet" }, "Boost needs a run that was trained with validation data."),
  );
}

function weights(model, state, changed) {
  const sliders = model.parts.map((name) =>
    slider(
      name,
      {
        min: 0,
        max: HIGHEST,
        step: 0.1,
        value: state.weights[name],
        hue: hue(model, name),
        said: (x) => `× ${formatNumber(x, 1)}`,
      },
      (value) => {
        state.weights[name] = value;
        reset.disabled = Object.values(state.weights).every((one) => one === 1);
        changed();
      },
    ),
  );
  const reset = el(
    "button",
    {
      type: "button",
      class: "plain small",
      data: { testid: "reset-weights" },
      disabled: Object.values(state.weights).every((one) => one === 1),
      on: {
        click: () => {
          for (const one of sliders) one.set(1);
          for (const name of model.parts) state.weights[name] = 1;
          reset.disabled = true;
          changed();
        },
      },
    },
    "Reset",
  );
  return el(
    "section",
    { "aria-label": "Weights of the parts" },
    el("div", { class: "row apart" }, el("h2", {}, "Weights of the parts"), reset),
    sliders.map((one) => one.element),
  );
}

function slider(name, { min, max, step, value, hue: color, said, testid = "weight" }, changed) {
  const id = `slider-${name.replace(/\W+/g, "-").toLowerCase()}`;
  const output = el("output", { for: id }, said(value));
  const paint = (input) => {
    input.style.setProperty("--done", `${((input.valueAsNumber - min) / (max - min)) * 100}%`);
    input.setAttribute("aria-valuetext", said(input.valueAsNumber));
    output.textContent = said(input.valueAsNumber);
  };
  const input = el("input", {
    type: "range",
    id,
    data: { testid },
    min,
    max,
    step,
    value,
    vars: { "--hue": color ?? "var(--gray)" },
    on: {
      input: () => {
        paint(input);
        changed(Math.round(input.valueAsNumber * 10) / 10);
      },
    },
  });
  paint(input);
  const set = (number) => {
    input.value = number;
    paint(input);
  };
  return { element: el("div", { class: "slider" }, el("label", { for: id }, name), output, input), set };
}

// ---------------------------------------------------------------- filters

function filters(model, state, changed, soon) {
  const title = titleColumn(model);
  const columns = model.table.filter((one) => one.kind !== "text" || one.name === title);
  const others = model.table.filter((one) => !columns.includes(one)).slice(0, 8);
  if (model.added > 0 && !("added" in model.columns)) columns.push({ name: "added", kind: "yes_no", values: [] });
  const set = (name, condition, run) => {
    if (condition === null) delete state.filter[name];
    else state.filter[name] = condition;
    clear.disabled = Object.keys(state.filter).length === 0;
    run();
  };
  const rows = () =>
    [...columns, ...others].map((column) => field(column, state.filter[column.name], set, changed, soon));
  const place = el("div", {});
  const clear = el(
    "button",
    {
      type: "button",
      class: "plain small",
      data: { testid: "clear-filters" },
      disabled: Object.keys(state.filter).length === 0,
      on: {
        click: () => {
          state.filter = {};
          clear.disabled = true;
          place.replaceChildren(...rows());
          changed();
        },
      },
    },
    "Clear",
  );
  place.append(...rows());
  return el(
    "section",
    { "aria-label": "Filters" },
    el("div", { class: "row apart" }, el("h2", {}, "Filters"), clear),
    place,
  );
}

function field(column, before, set, changed, soon) {
  const id = `filter-${column.name.replace(/\W+/g, "-")}`;
  const label = el("label", { for: id }, column.name);
  const chosen = (values, made) =>
    el(
      "select",
      {
        id,
        on: {
          change: (event) => set(column.name, event.target.value === "" ? null : made(event.target.value), changed),
        },
      },
      el("option", { value: "" }, "any"),
      values.map(([value, text]) => el("option", { value, selected: String(plain(before)) === value }, text)),
    );
  if (column.kind === "yes_no")
    return row(
      label,
      chosen(
        [
          ["true", "yes"],
          ["false", "no"],
        ],
        (value) => value === "true",
      ),
    );
  if (column.kind === "choice")
    return row(
      label,
      chosen(
        column.values.map((one) => [one, one]),
        (value) => value,
      ),
    );
  if (column.kind === "list")
    return row(
      label,
      chosen(
        column.values.map((one) => [one, one]),
        (value) => ({ contains: value }),
      ),
    );
  if (column.kind === "number") return row(label, range(column, id, before, set, soon));
  const input = el("input", {
    id,
    type: "text",
    maxlength: 100,
    placeholder: "holds the text",
    value: before?.contains ?? "",
    on: { input: () => set(column.name, input.value.trim() ? { contains: input.value.trim() } : null, soon) },
  });
  return row(label, input);
}

function range(column, id, before, set, soon) {
  const read = () => {
    const condition = {};
    if (low.value !== "" && low.validity.valid) condition.ge = low.valueAsNumber;
    if (high.value !== "" && high.validity.valid) condition.le = high.valueAsNumber;
    set(column.name, Object.keys(condition).length ? condition : null, soon);
  };
  const one = (bound, text, value, more) =>
    el("input", {
      type: "number",
      step: "any",
      placeholder: formatNumber(bound),
      "aria-label": `${column.name}, ${text}`,
      value: value ?? "",
      on: { input: read },
      ...more,
    });
  const low = one(column.values[0], "at least", before?.ge, { id });
  const high = one(column.values[1], "at most", before?.le, { data: { testid: `${id}-at-most` } });
  return el("div", { class: "row range" }, low, el("span", { "aria-hidden": "true" }, "–"), high);
}

const row = (label, input) => el("div", { class: "field" }, label, input);
const plain = (condition) => (condition !== null && typeof condition === "object" ? condition.contains : condition);

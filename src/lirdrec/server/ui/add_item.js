// "Add an item": title and image in, and at once its own page: who would get it, and between which neighbors it lies.

import { api } from "./api.js";
import { itemLink } from "./cards.js";
import { catalog, changed, titleColumn } from "./catalog.js";
import { el, icon, say } from "./dom.js";
import { sessionNews } from "./item.js";

const TYPES = ["image/jpeg", "image/png", "image/webp"];

export async function addItem(root) {
  changed(); // encoders may have been loaded meanwhile
  const model = await catalog();
  const head = el(
    "div",
    { class: "head" },
    el("h1", { tabindex: "-1" }, "Add an item"),
    el("p", { class: "lead" }, "It is recommended immediately, without retraining."),
  );
  if (!model.new_items) {
    root.replaceChildren(
      head,
      el(
        "p",
        { class: "notice" },
        "New items are not possible: the model supports only items of training, or it is a slim run. Serve the full run of a model that supports new items, such as lirdrec.",
      ),
    );
    return "Add an item";
  }
  root.replaceChildren(head, form(model));
  return "Add an item";
}

function form(model) {
  const title = titleColumn(model);
  const kinds = Object.entries(model.encoders);
  const lacking = Object.keys(model.features).filter((name) => !(name in model.encoders));
  const fault = el("p", { class: "fault", role: "alert", hidden: true });
  const send = el("button", { type: "submit", class: "main" }, "Add it");
  const drop = imageField();
  const id = el("input", {
    id: "new-id",
    name: "id",
    required: true,
    autocomplete: "off",
    maxlength: 200,
    ...(model.item_ids === "integer" ? { inputmode: "numeric", pattern: "[0-9]+" } : {}),
  });
  const name =
    title && el("input", { id: "new-title", name: title, required: true, autocomplete: "off", maxlength: 500 });
  if (model.item_ids === "integer") id.value = String(Math.floor(Date.now() / 1000));
  else name?.addEventListener("input", () => !id.dataset.own && (id.value = slug(name.value)));
  id.addEventListener("input", () => (id.dataset.own = "yes"));

  const others = model.table.filter(
    (one) => one.name !== title && one.name !== "features" && one.name !== "image" && one.name !== "id",
  );
  const vectors = lacking.length ? vectorFields(model, lacking, kinds.length === 0) : null;
  const made = el(
    "form",
    { class: "add", novalidate: true },
    el(
      "div",
      { class: "two" },
      drop.element,
      el(
        "div",
        {},
        name && el("div", { class: "field tall" }, el("label", { for: "new-title" }, "Title"), name),
        el(
          "div",
          { class: "field tall" },
          el("label", { for: "new-id" }, "Id"),
          id,
          el(
            "p",
            { class: "quiet" },
            model.item_ids === "integer" ? "A number that no item has yet." : "A text that no item has yet.",
          ),
        ),
        others.map((column) =>
          el("div", { class: "field tall" }, el("label", { for: `new-${column.name}` }, column.name), input(column)),
        ),
      ),
    ),
    notice(model, kinds, lacking),
    vectors,
    fault,
    el("div", { class: "row" }, send),
  );
  made.addEventListener("submit", async (event) => {
    event.preventDefault();
    fault.hidden = true;
    const bad = [...made.querySelectorAll("[name]")].find((one) => !one.checkValidity());
    if (bad) {
      const what = bad === id ? "The id is missing or is not a number." : `“${bad.name}” is not a number.`;
      complain(bad === name ? "Give it a title." : what);
      bad.focus();
      return;
    }
    send.disabled = true;
    send.textContent = "Adding…";
    try {
      const answer = await api.add(body(made, drop.file(), vectors));
      changed();
      sessionNews.add(String(answer.items[0]));
      location.hash = itemLink(answer.items[0]);
    } catch (error) {
      complain(
        error.status === 403 ? "The API key of this tab may read only; take one that may write." : error.message,
      );
    } finally {
      send.disabled = false;
      send.textContent = "Add it";
    }
  });
  const complain = (text) => {
    fault.textContent = text;
    fault.hidden = false;
  };
  return made;
}

function body(made, file, vectors) {
  const form = new FormData();
  for (const one of made.querySelectorAll("[name]")) if (one.value.trim()) form.append(one.name, one.value.trim());
  if (file) form.append("image", file, "image");
  const given = {};
  for (const one of vectors?.querySelectorAll("textarea") ?? []) {
    if (!one.value.trim()) continue;
    try {
      given[one.dataset.feature] = JSON.parse(
        one.value.trim().startsWith("[") ? one.value : `[${one.value.trim().replace(/[\s,;]+/g, ",")}]`,
      );
    } catch {
      throw new Error(`The vector “${one.dataset.feature}” is not a list of numbers.`);
    }
  }
  if (Object.keys(given).length) form.append("features", JSON.stringify(given));
  return form;
}

function notice(model, kinds, lacking) {
  if (model.loading)
    return el("p", { class: "notice" }, "The server is still loading its encoders. Open this view again in a moment.");
  const faults = Object.entries(model.encoder_faults);
  if (!kinds.length && faults.length) {
    return el(
      "div",
      { class: "notice" },
      el(
        "p",
        {},
        el("strong", {}, "This server was started with --encoders, but cannot encode titles and images. "),
        "Enter the vectors of the new item below. The reasons:",
      ),
      el(
        "ul",
        {},
        faults.map(([name, reason]) => el("li", {}, `${name}: ${reason}`)),
      ),
    );
  }
  if (!kinds.length) {
    return el(
      "div",
      { class: "notice" },
      el(
        "p",
        {},
        el("strong", {}, "This server cannot encode titles and images. "),
        "Enter the vectors of the new item below, or start the server with the encoders of the dataset:",
      ),
      el("pre", { tabindex: "0" }, el("code", {}, "lirdrec serve RUN --ui --encoders")),
      el("p", { class: "quiet" }, "This needs a run of a dataset whose features were made by lirdrec features."),
    );
  }
  const reads = kinds
    .map(([name, kind]) => `${kind === "image" ? "the image" : "the texts"} (${name})`)
    .join(" and ");
  const rest = lacking.length ? ` What it cannot make (${lacking.join(", ")}) may be given below, or be left out.` : "";
  return el("p", { class: "quiet" }, `The server encodes ${reads}.${rest}`);
}

function vectorFields(model, names, open) {
  return el(
    "details",
    { class: "fold", open },
    el("summary", {}, "Vectors"),
    names.map((name) =>
      el(
        "div",
        { class: "field tall" },
        el("label", { for: `vector-${name}` }, `${name}: ${model.features[name]} numbers`),
        el("textarea", {
          id: `vector-${name}`,
          rows: 3,
          spellcheck: "false",
          placeholder: "[0.12, −0.03, …]",
          data: { feature: name },
        }),
      ),
    ),
  );
}

function input(column) {
  const id = `new-${column.name}`;
  if (column.kind === "yes_no")
    return el(
      "select",
      { id, name: column.name },
      el("option", { value: "" }, "unknown"),
      el("option", { value: "true" }, "yes"),
      el("option", { value: "false" }, "no"),
    );
  if (column.kind === "number") return el("input", { id, name: column.name, type: "number", step: "any" });
  const names = `${id}-known`;
  const known = column.values.length
    ? el(
        "datalist",
        { id: names },
        column.values.map((one) => el("option", { value: one })),
      )
    : null;
  return el("span", {}, el("input", { id, name: column.name, autocomplete: "off", list: known ? names : null }), known);
}

function imageField() {
  let file = null;
  const field = el("input", { id: "new-image", type: "file", accept: TYPES.join(","), class: "unseen" });
  const invitation = ["Choose an image,", el("br"), "or drop it here"];
  const inside = el("span", { class: "inside" }, icon("image"), el("span", {}, invitation));
  const label = el("label", { for: "new-image", class: "drop" }, inside);
  const away = el("button", { type: "button", class: "plain small", hidden: true }, "Remove the image");
  const nothing = (...said) => {
    file = null;
    field.value = "";
    away.hidden = true;
    inside.replaceChildren(icon("image"), el("span", {}, said));
  };
  const take = (one) => {
    if (!one) return;
    if (!TYPES.includes(one.type)) {
      say("The image must be a JPEG, PNG or WebP.");
      nothing("The image must be a JPEG, PNG or WebP.");
      return;
    }
    file = one;
    away.hidden = false;
    const shown = el("img", { alt: `The chosen image, ${one.name}` });
    shown.src = URL.createObjectURL(one);
    shown.addEventListener("load", () => URL.revokeObjectURL(shown.src), { once: true });
    inside.replaceChildren(shown);
    say(`${one.name} was chosen.`);
  };
  field.addEventListener("change", () => take(field.files[0]));
  away.addEventListener("click", () => {
    nothing(...invitation);
    say("The image was removed.");
    field.focus();
  });
  for (const name of ["dragover", "dragenter"]) {
    label.addEventListener(name, (event) => {
      event.preventDefault();
      label.classList.add("ready");
    });
  }
  for (const name of ["dragleave", "drop"]) label.addEventListener(name, () => label.classList.remove("ready"));
  label.addEventListener("drop", (event) => {
    event.preventDefault();
    take(event.dataTransfer.files[0]);
  });
  return { element: el("div", { class: "image-field" }, field, label, away), file: () => file };
}

const slug = (text) =>
  text
    .toLowerCase()
    .normalize("NFKD")
    .replace(/[^\p{Letter}\p{Number}]+/gu, "-")
    .replace(/^-|-$/g, "")
    .slice(0, 60);

// Requests to the server, with the key of this tab; errors as one sentence; images.

const ROOT = new URL("../", document.baseURI); // the page lies at …/ui/
const KEY = "lirdrec-key";
let remembered = null; // where the browser keeps nothing

const TRIES = 10;
const LONGEST_WAIT = 5; // seconds

/** An answer that is an error: `status`, a sentence as `message`, and `after` how many seconds to ask again, or NaN. */
export class Problem extends Error {
  constructor(status, sentence, after = NaN) {
    super(sentence);
    this.status = status;
    this.after = after;
  }
}

export function key() {
  try {
    return sessionStorage.getItem(KEY) ?? remembered;
  } catch {
    return remembered;
  }
}

export function setKey(value) {
  remembered = value || null;
  images.clear();
  try {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  } catch {
    // it is remembered until the page is left
  }
}

/** Ask; a server that is still starting is asked again, as long as nothing would be changed. */
async function ask(path, options = {}) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await askOnce(path, options);
    } catch (error) {
      const soon = error.status === 503 && error.after <= LONGEST_WAIT && (options.method ?? "GET") === "GET";
      if (!soon || tries === TRIES) throw error;
      await new Promise((done) => setTimeout(done, 1000 * error.after));
    }
  }
}

async function askOnce(path, { method = "GET", query = {}, body, signal } = {}) {
  const url = new URL(path, ROOT);
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null) url.searchParams.set(name, value);
  }
  const headers = {};
  const used = key();
  if (used) headers["X-API-Key"] = used;
  if (typeof body === "string") headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(url, { method, headers, body, signal, credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The server does not answer. Is it still running?");
  }
  if (answer.ok) return answer;
  // not where another key was given meanwhile
  if (answer.status === 401 && key() === used)
    document.dispatchEvent(new CustomEvent("key-wanted", { detail: Boolean(used) }));
  let said = null;
  try {
    said = (await answer.json()).detail;
  } catch {
    // no JSON: something between here and the server answered
  }
  const after = Number(answer.headers.get("Retry-After") ?? NaN);
  throw new Problem(answer.status, sentence(said ?? `The server answered with ${answer.status}.`), after);
}

const json = async (path, options) => parsed(await (await ask(path, options)).text());
const at = (id) => encodeURIComponent(String(id));

const TOKEN = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g; // texts, so that nothing in them is a number
const WHOLE = /^-?\d+$/;

/** JSON in which integers beyond 2^53, which a number of JavaScript would round, become texts of their digits. */
export function parsed(text) {
  if (!/\d{16}/.test(text)) return JSON.parse(text);
  const exact = (token) => (WHOLE.test(token) && !Number.isSafeInteger(Number(token)) ? `"${token}"` : token);
  return JSON.parse(text.replace(TOKEN, exact));
}

let served = null; // the last answer of /model, which says of what kind ids are

/** An id as JSON: of an integer that was too large for a number, the digits. */
const written = (id, kind) => (kind === "integer" && WHOLE.test(String(id)) ? String(id) : JSON.stringify(id));

/** The body of POST /recommend. */
async function recommendation({ user, history, ...rest }, signal) {
  if ([user, ...(history ?? [])].every((id) => typeof id !== "string"))
    return JSON.stringify({ user, history, ...rest });
  const { user_ids, item_ids } = served ?? (await api.model(signal));
  const ids = [];
  if (user !== undefined) ids.push(`"user":${written(user, user_ids)}`);
  if (history !== undefined) ids.push(`"history":[${history.map((id) => written(id, item_ids)).join()}]`);
  return `{${[...ids, JSON.stringify(rest).slice(1, -1)].filter(Boolean).join()}}`;
}

export const api = {
  model: async (signal) => (served = await json("model", { signal })),
  columns: (signal) => json("facets", { signal }),
  users: (query, signal) => json("users", { query, signal }),
  user: (id, query, signal) => json(`users/${at(id)}`, { query, signal }),
  items: (query, signal) => json("items", { query, signal }),
  item: (id, signal) => json(`items/${at(id)}`, { signal }),
  similar: (id, k, signal) => json(`similar/${at(id)}`, { query: { k }, signal }),
  audience: (id, k, signal) => json(`items/${at(id)}/audience`, { query: { k }, signal }),
  explain: (user, item, signal) => json("explain", { query: { user, item }, signal }),
  map: (column, signal) => json("projection", { query: { column }, signal }),
  recommend: async (asked, signal) =>
    json("recommend", { method: "POST", body: await recommendation(asked, signal), signal }),
  add: (form) => json("items", { method: "POST", body: form }),
  remove: (id) => json(`items/${at(id)}`, { method: "DELETE" }),
};

// ---------------------------------------------------------------- images

const KEPT = 400;
const images = new Map(); // id → address of a blob; needed only where a key must go with the request

const seen = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      fetched(target.dataset.item).then(
        (address) => (target.src = address),
        () => target.classList.add("lost"),
      );
    }
  },
  { rootMargin: "200px" },
);

/** The image of an item, loaded when it comes into view. Its title stands beside it, so it has no text of its own. */
export function image(id) {
  const made = document.createElement("img");
  made.alt = "";
  made.decoding = "async";
  made.draggable = false;
  if (key()) {
    made.dataset.item = String(id);
    seen.observe(made);
  } else {
    made.loading = "lazy";
    made.src = new URL(`items/${at(id)}/image`, ROOT);
  }
  return made;
}

async function fetched(id) {
  if (!images.has(id)) {
    const asked = ask(`items/${at(id)}/image`).then(async (answer) => URL.createObjectURL(await answer.blob()));
    asked.catch(() => images.delete(id));
    images.set(id, asked);
    if (images.size > KEPT) images.delete(images.keys().next().value);
  }
  return images.get(id);
}

function sentence(text) {
  const trimmed = String(text).trim();
  return trimmed.charAt(0).toUpperCase() + trimmed.slice(1) + (/[.!?)]$/.test(trimmed) ? "" : ".");
}

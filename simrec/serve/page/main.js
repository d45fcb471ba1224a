// The page: one state, which is drawn and looked up again whenever it changes.

import * as api from "./api.js";
import * as detail from "./detail.js";
import { by, h, later, number } from "./dom.js";
import * as filters from "./filters.js";
import * as pictures from "./pictures.js";
import * as results from "./results.js";
import { empty, fromAddress, hold, toAddress, where } from "./state.js";

let known = []; // the recommenders
let facets = [];
let state = empty();
const NOTHING = { heading: "No answer", status: "", items: [], question: {} };
let latest = NOTHING; // the last answer, and the pictures of its question
let running = null;
let last = ""; // what changed last: dragging one slider is one step in the history

const same = (one, other) => (one.id !== undefined ? one.id === other.id : one.code && one.code === other.code);

const part = (item) => ({ id: item.id, name: results.title(item) });

// Gives items from the address the names that their cards have.
async function named(parts) {
  await Promise.all(parts.filter((one) => one.id !== undefined).map(async (one) => {
    const item = await api.item(state.recommender, one.id).catch(() => null); // the answer says that it isn't there
    if (item) one.name = results.title(item);
  }));
}

function remember(what) {
  const address = toAddress(state);
  if (what && what === last) history.replaceState(null, "", address);
  else if (address !== `${location.search || "/"}`) history.pushState(null, "", address);
  last = what;
}

function fail(error) {
  by("error").textContent = error.message;
  by("error").hidden = false;
}

// Says why there is no answer, and shows the last one and its question again.
function back(error) {
  Object.assign(state, latest.question);
  by("recommender").value = state.recommender;
  question();
  show(latest);
  fail(error);
}

function busy() {
  by("main").setAttribute("aria-busy", "true");
  by("error").hidden = true;
}

const isNew = (part) => part.id === undefined && !part.code;

// The similar items. New pictures get their codes, and their copies for the link.
// count: how many pictures the link holds.
async function ask(asking, filter, count, signal) {
  const fresh = asking.wanted.filter(isNew);
  const [reply, ...copies] = await Promise.all([api.similar(asking, filter, signal),
    ...fresh.map((part) => pictures.copies(part, count))]);
  fresh.forEach((part, place) => {
    Object.assign(part, { code: reply.codes[place], thumb: copies[place].tiny });
    hold(part, copies[place].sharp);
  });
  return reply;
}

const [TOO_LARGE, UNREADABLE] = [413, 422]; // the statuses for a picture that the server refuses

// Gives each new picture its code. Each is sent alone, so that one which the server refuses doesn't keep out the others.
// Returns the server's reasons, by picture.
async function encode(asking, signal) {
  const { recommender, wanted } = asking;
  const reasons = new Map();
  await Promise.all(wanted.filter(isNew).map((part) =>
    ask({ ...empty(recommender), wanted: [part], n: 1 }, "", wanted.length, signal).catch((error) => {
      if (![TOO_LARGE, UNREADABLE].includes(error.status)) throw error;
      reasons.set(part, error.status === TOO_LARGE ? `${part.name}: ${error.message}` : error.message);
    })));
  return reasons;
}

async function answer(what = "") {
  running?.abort();
  const mine = (running = new AbortController());
  const asking = state;
  busy();
  try {
    const filter = where(asking.filters);
    if (!asking.wanted.length) {
      const { items } = await api.items(asking.recommender, asking.n, filter, mine.signal);
      if (mine !== running) return;
      const status = items.length ? "or drop a picture of your own" : "Nothing matches: widen the filters.";
      keep({ heading: "Start with one of these", status, items }, asking);
    } else {
      const reasons = asking.wanted.length > 1 ? await encode(asking, mine.signal) : new Map();
      if (mine !== running) return;
      const why = new Error([...reasons.values()].join("\n"));
      if (reasons.size === asking.wanted.length) throw why;
      if (reasons.size) {
        asking.wanted = asking.wanted.filter((part) => !reasons.has(part));
        question();
      }
      const reply = await ask(asking, filter, asking.wanted.length, mine.signal);
      if (mine !== running) return;
      const count = reply.matches.length;
      const heading = count ? `${count} similar ${count === 1 ? "item" : "items"}` : "Nothing similar";
      const status = reply.strange ? "This looks like nothing in the catalogue."
        : count ? likeness(asking) : "No item matches the filters: widen them.";
      keep({ heading, status, items: reply.matches }, asking);
      if (reasons.size) fail(why);
    }
    remember(what);
  } catch (error) {
    if (error.name === "AbortError" || mine !== running) return;
    back(error);
  }
  by("main").removeAttribute("aria-busy");
}

const answerSoon = later(80, answer);

function tell(heading, status) {
  by("title").textContent = heading;
  by("status").textContent = status;
}

function likeness({ wanted, less }) {
  const names = (parts) => parts.map(pictures.called).join(" and ");
  return `like ${names(wanted)}${less.length ? `, but less like ${names(less)}` : ""}`;
}

function keep(given, { wanted, less }) {
  latest = { ...given, question: { wanted, less } };
  show(latest);
}

function show({ heading, status, items }) {
  tell(heading, status);
  results.draw(items, state.recommender, act);
}

function question() {
  pictures.draw(state.wanted, by("wanted"), state.recommender, { remove, crop });
  pictures.draw(state.less, by("less"), state.recommender, { remove });
  by("unlike").hidden = !state.less.length;
  narrowed();
  document.body.classList.toggle("asked", state.wanted.length > 0);
}

function controls() {
  filters.draw(by("filters"), facets, state, (what) => {
    narrowed();
    answerSoon(what);
  });
}

// On a phone the filters are folded away: the summary says how many there are.
function narrowed() {
  const count = Object.keys(state.filters).length + (state.least !== null);
  by("narrowed").textContent = count ? `Filters (${count})` : "Filters";
  by("clear").hidden = !(state.wanted.length || state.less.length || count);
}

function change() {
  question();
  answer();
}

function remove(part) {
  state.wanted = state.wanted.filter((one) => one !== part);
  state.less = state.wanted.length ? state.less.filter((one) => one !== part) : [];
  change();
  by("choose").focus();
}

function crop(part, box) {
  const { id, file, url, name } = part;
  const other = id === undefined ? { file, url, name, crop: box } : { id, name, crop: box };
  state.wanted = state.wanted.map((one) => (one === part ? other : one));
  change();
}

// Scrolls up to the question, which on a phone is above the answers, and to the first answer.
function up() {
  by("main").focus();
  by("question").scrollTo({ top: 0 });
  scrollTo({ top: 0 });
}

const act = {
  look: (item) => detail.look(item, latest.items, state, act),
  more(item) {
    state.wanted = [part(item)];
    state.less = [];
    change();
    up();
  },
  also(item) {
    if (!state.wanted.some((one) => same(one, item))) state.wanted = [...state.wanted, part(item)];
    change();
  },
  less(item) {
    if (!state.wanted.length) {
      fail(new Error("First choose a picture that items should look like, then this one to look less like."));
      return;
    }
    if (!state.less.some((one) => same(one, item))) state.less = [...state.less, part(item)];
    change();
    up();
  },
};

function take(files) {
  if (!files.length) return;
  Object.assign(state, { wanted: files.slice(0, 16).map(pictures.uploaded), less: [] });
  question();
  tell("Looking …", files.length === 1 ? files[0].name : `${files.length} pictures`);
  by("results").replaceChildren(...Array.from({ length: 12 }, () => h("li", { class: "card waiting", "aria-hidden": "true" })));
  answer();
}

// Opens a recommender with the question in the address.
async function open(next) {
  const name = known.some((one) => one.name === next.recommender) ? next.recommender : known[0].name;
  if (name !== state.recommender || !facets.length) {
    const found = await api.recommender(name);
    facets = found.facets;
    latest = NOTHING;
    by("about").textContent = `${number(found.recommender.items)} items`;
  }
  state = { ...next, recommender: name };
  by("recommender").value = name;
  last = "open";
  await named([...state.wanted, ...state.less]);
  question();
  controls();
  await answer("open");
}

function login() {
  const dialog = by("login");
  return new Promise((resolve) => {
    if (!dialog.open) dialog.showModal();
    dialog.querySelector("form").onsubmit = async (event) => {
      event.preventDefault();
      if (await api.session(by("token").value)) {
        dialog.close();
        resolve();
      } else by("wrong").textContent = "That token is wrong.";
    };
  });
}

async function start() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) {
    history.replaceState(null, "", location.pathname + location.search);
    await api.session(token);
  }
  api.onLogin(login);
  known = (await api.recommenders()).recommenders;
  by("recommender").replaceChildren(...known.map((one) => h("option", { value: one.name }, one.name)));
  by("catalogue").hidden = known.length < 2;
  if (matchMedia("(max-width: 50rem)").matches) by("narrow").open = false;
  results.arrows();
  by("recommender").addEventListener("change", (event) => open(empty(event.target.value)).catch(back));
  by("clear").addEventListener("click", () => {
    state = empty(state.recommender);
    controls();
    change();
    by("choose").focus();
  });
  by("link").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(location.href);
      by("link").textContent = "Link copied";
    } catch {
      by("link").textContent = "The link is in the address bar";
    }
    setTimeout(() => (by("link").textContent = "Copy link"), 2500);
  });
  by("filters").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("popstate", () => open(fromAddress(location.search)).catch(back));
  await open(fromAddress(location.search));
}

// A picture that comes before the page knows its catalogue waits until then.
const ready = start();
pictures.listen((files) => ready.then(() => take(files)));
ready.catch(back);

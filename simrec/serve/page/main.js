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
let shown = []; // the items of the answer
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
  by("status").textContent = "";
}

function busy() {
  by("main").setAttribute("aria-busy", "true");
  by("error").hidden = true;
}

async function answer(what = "") {
  running?.abort();
  const mine = (running = new AbortController());
  const asking = state;
  busy();
  try {
    const filter = where(state.filters);
    if (!state.wanted.length) {
      const found = await api.items(state.recommender, state.n, filter, mine.signal);
      if (mine !== running) return;
      tell("Start with one of these", found.items.length ? "or drop a picture of your own" : "Nothing matches: widen the filters.");
      show(found.items);
    } else {
      const fresh = state.wanted.filter((part) => part.id === undefined && !part.code);
      const [found, ...thumbs] = await Promise.all([api.similar(state, filter, mine.signal), 
        ...fresh.map((part) => pictures.thumb(part, asking.wanted.length))]);
      if (mine !== running) return;
      fresh.forEach((part, place) => {
        Object.assign(part, { code: found.codes[place], thumb: thumbs[place] });
        hold(part);
      });
      const count = found.matches.length;
      tell(count ? `${count} similar ${count === 1 ? "item" : "items"}` : "Nothing similar",
        found.strange ? "This looks like nothing in the catalogue." :
        count ? likeness() : "No item matches the filters: widen them.");
      show(found.matches);
    }
    remember(what);
  } catch (error) {
    if (error.name === "AbortError") return;
    if (mine !== running) return;
    const broken = asking.wanted.filter((part) => part.file && !part.code);
    if (broken.length) {
      state.wanted = state.wanted.filter((part) => !broken.includes(part));
      question();
    }
    fail(error);
  }
  if (mine === running) by("main").removeAttribute("aria-busy");
}

const answerSoon = later(80, answer);

function tell(heading, status) {
  by("title").textContent = heading;
  by("status").textContent = status;
}

function likeness() {
  const names = (parts) => parts.map(pictures.called).join(" and ");
  return `like ${names(state.wanted)}${state.less.length ? `, but less like ${names(state.less)}` : ""}`;
}

function show(items) {
  shown = items;
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
  look: (item) => detail.look(item, shown, state, act),
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
  by("recommender").addEventListener("change", (event) => open(empty(event.target.value)).catch(fail));
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
  addEventListener("popstate", () => open(fromAddress(location.search)).catch(fail));
  await open(fromAddress(location.search));
}

// A picture that comes before the page knows its catalogue waits until then.
const ready = start();
pictures.listen((files) => ready.then(() => take(files)));
ready.catch(fail);

// The answer: a card for each item.

import { address } from "./api.js";
import { by, end, h, number, picture } from "./dom.js";

const NAMES = ["title", "name"]; // fields that say what an item is called, if it has one

export const OF_FILES = ["folder", "name", "bytes", "modified", "width", "height"]; // what simrec knows of each file

const HIDDEN = ["bytes", "modified", "width", "height"]; // the detail shows them

export const title = (item) => NAMES.map((name) => item.fields[name]).find((value) => value) ?? end(item.id);

export const value = (one) => (typeof one === "number" ? number(one, 6) : one);

// The figures of an answer. An item of the first page isn't an answer and has none.
export function figures(item) {
  if (item.rank === undefined) return null;
  const said = [
    ["rank", `${item.rank}`], ["score", item.score.toFixed(3)],
    ["percentile", item.percentile === null ? "–" : item.percentile.toFixed(1)],
  ];
  return h("dl", { class: "figures" }, said.map(([name, text]) => h("div", { class: name }, h("dt", {}, name), h("dd", {}, text))));
}

export function fields(item, all = false) {
  const shown = Object.entries(item.fields).filter(([name, text]) =>
    text !== "" && text !== null && (all || (!HIDDEN.includes(name) && !NAMES.includes(name))));
  shown.sort(([one], [other]) => OF_FILES.includes(one) - OF_FILES.includes(other));
  if (item.label && !shown.some(([, text]) => text === item.label)) shown.unshift(["label", item.label]);
  return h("dl", { class: "fields" }, shown.map(([name, text]) => h("div", {}, h("dt", {}, name), h("dd", {}, value(text)))));
}

// act: what the buttons do with an item: look, more, less.
export function draw(items, recommender, act) {
  by("results").replaceChildren(
    ...items.map((item) => {
      const name = title(item);
      const look = h("button", {
        type: "button", class: "picture", "aria-label": `Look at ${name}`, onclick: () => act.look(item),
      }, picture(address(recommender, "previews", item.id), "", end(item.id)));
      return h("li", { class: "card" }, look, figures(item), h("h3", { title: item.id }, name), fields(item),
        h("div", { class: "row" },
          h("button", { type: "button", "aria-label": `More like this: ${name}`, onclick: () => act.more(item) }, "More like this"),
          h("button", { type: "button", "aria-label": `Less like this: ${name}`, onclick: () => act.less(item) }, "Less")));
    }),
  );
}

// Arrow keys go from picture to picture.
export function arrows() {
  by("results").addEventListener("keydown", (event) => {
    const pictures = [...by("results").querySelectorAll("button.picture")];
    const at = pictures.indexOf(document.activeElement);
    if (at < 0) return;
    const top = pictures[0].getBoundingClientRect().top;
    const across = pictures.filter((one) => Math.abs(one.getBoundingClientRect().top - top) < 2).length;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across, Home: -at, End: pictures.length }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    pictures[Math.min(pictures.length - 1, Math.max(0, at + step))].focus();
  });
}

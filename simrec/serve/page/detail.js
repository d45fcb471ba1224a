// One item, large, beside the query, and what the encoder makes of both.

import { address, views } from "./api.js";
import { by, end, h, number, picture } from "./dom.js";
import { called, source } from "./pictures.js";
import { fields, figures, title } from "./results.js";

// others: all items of the answer, in order. act: what the buttons do.
export function look(item, others, state, act) {
  const dialog = by("detail");
  const name = state.recommender;
  const close = () => dialog.close();
  const done = (work) => () => {
    close();
    work(item);
  };
  const first = state.wanted[0];
  const asked = first && (first.id !== undefined || first.url || first.thumb) ? first : null;
  const place = others.indexOf(item);
  const step = (by_) => others[place + by_] && look(others[place + by_], others, state, act);
  dialog.replaceChildren(
    h("header", {},
      h("h2", { id: "detail-title" }, title(item)),
      h("button", { type: "button", class: "quiet", disabled: place < 1, onclick: () => step(-1) }, "Previous"),
      h("button", { type: "button", class: "quiet", disabled: place + 1 >= others.length, onclick: () => step(1) }, "Next"),
      h("button", { type: "button", class: "quiet", onclick: close }, "Close")),
    h("div", { class: "pair" }, asked && large("What you asked", called(asked), asked, name),
      large("This item", title(item), item, name)),
    figures(item) ?? "",
    h("p", { class: "id" }, item.id),
    fields(item, true),
    h("div", { class: "row" },
      h("button", { type: "button", class: "first", onclick: done(act.more) }, "More like this"),
      h("button", { type: "button", onclick: done(act.also) }, "Add to the question"),
      h("button", { type: "button", onclick: done(act.less) }, "Less like this")));
  dialog.onkeydown = (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  };
  if (!dialog.open) dialog.showModal();
}

function large(heading, alt, part, name) {
  // If an item's file can't be read again, show its preview; for an upload, show the upload.
  const image = part.id === undefined ? picture(source(part), alt)
    : picture(address(name, "originals", part.id), alt, end(part.id), address(name, "previews", part.id));
  const figure = h("figure", {}, h("figcaption", {}, heading), h("div", { class: part.url ? "tile upload" : "tile" }, image));
  if (part.id !== undefined || part.file) {
    const place = h("div", { class: "views", "aria-busy": "true" });
    figure.append(place);
    views(name, part).then((found) => {
      const shown = [["What the encoder sees", found.seen], ["Rebuilt from its code", found.rebuilt],
                     ["Where that differs", found.difference]];
      const said = found.error === null ? null
        : h("p", {}, `Red is too light, blue too dark; mean squared error ${number(found.error, 4)}.`);
      place.replaceChildren(...shown.filter(([, data]) => data).map(([text, data]) =>
        h("figure", {}, picture(data, text), h("figcaption", {}, text))), said ?? "");
    }).catch((error) => place.replaceChildren(h("p", {}, error.message))).finally(() => place.removeAttribute("aria-busy"));
  }
  return figure;
}

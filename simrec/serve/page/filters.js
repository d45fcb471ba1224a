// What narrows the answer: how many items, the minimum score, and a control for each field of the catalogue.

import { h, number } from "./dom.js";
import { OF_FILES } from "./results.js";

const FEW = 8; // choices that are shown at once

const COUNTS = [12, 24, 48, 96];

// Draws all controls. change: called with the name of what has changed, after the state holds it.
export function draw(place, facets, state, change) {
  const kinds = { number: numbers, choice: choices, text: texts };
  const control = (facet) =>
    h("fieldset", {}, h("legend", {}, facet.name), kinds[facet.kind](facet, state, () => change(facet.name)));
  const ofFiles = facets.filter(({ name }) => OF_FILES.includes(name));
  place.replaceChildren(
    ...facets.filter((facet) => !ofFiles.includes(facet)).map(control),
    h("fieldset", {}, h("legend", {}, "answers"), counts(state, change), least(state, change)),
    ofFiles.length
      ? h("details", { class: "files", open: ofFiles.some(({ name }) => name in state.filters) },
        h("summary", {}, "Picture files"), ofFiles.map(control))
      : "",
  );
}

function numbers(facet, state, change) {
  const step = facet.whole ? 1 : Number(((facet.most - facet.least) / 200).toPrecision(1));
  const given = () => state.filters[facet.name] ?? { from: null, to: null };
  const controls = { from: [], to: [] };
  const show = (typed) => {
    for (const end of ["from", "to"]) {
      const value = given()[end] ?? (end === "from" ? facet.least : facet.most);
      for (const control of controls[end]) if (control !== typed) control.value = value;
    }
    const share = (value) => `${(100 * (value - facet.least)) / (facet.most - facet.least)}%`;
    slider.style.setProperty("--from", share(given().from ?? facet.least));
    slider.style.setProperty("--to", share(given().to ?? facet.most));
  };
  const set = (end, control) => {
    const value = control.value === "" ? null : Number(control.value);
    const now = { ...given(), [end]: value };
    if (control.type === "range") {
      if (end === "from" && value > (now.to ?? facet.most)) now.from = now.to;
      if (end === "to" && value < (now.from ?? facet.least)) now.to = now.from;
    }
    if (now.from !== null && now.from <= facet.least) now.from = null;
    if (now.to !== null && now.to >= facet.most) now.to = null;
    if (now.from === null && now.to === null) delete state.filters[facet.name];
    else state.filters[facet.name] = now;
    show(control.type === "range" ? null : control);
    change();
  };
  const control = (end, type) => {
    const made = h("input", {
      type, min: facet.least, max: facet.most, step: type === "range" ? step : "any",
      "aria-label": `${facet.name} ${end}${type === "range" ? ", slider" : ""}`,
      oninput: () => set(end, made), onchange: () => show(),
    });
    controls[end].push(made);
    return made;
  };
  const slider = h("div", { class: "slider" }, control("from", "range"), control("to", "range"));
  const typed = h("div", { class: "ends" }, control("from", "number"), h("span", {}, "to"), control("to", "number"));
  show();
  return [slider, typed];
}

function choices(facet, state, change) {
  const pill = ({ value, count }) => {
    const box = h("input", {
      type: "checkbox", checked: state.filters[facet.name]?.any?.includes(value) ?? false,
      onchange: () => {
        const others = (state.filters[facet.name]?.any ?? []).filter((one) => one !== value);
        const any = box.checked ? [...others, value] : others;
        if (any.length) state.filters[facet.name] = { any };
        else delete state.filters[facet.name];
        change();
      },
    });
    return h("label", { class: "pill" }, box, h("span", {}, value), h("small", { "aria-hidden": "true" }, number(count)));
  };
  const first = facet.choices.slice(0, FEW);
  const others = facet.choices.slice(FEW);
  const chosen = others.some(({ value }) => state.filters[facet.name]?.any?.includes(value));
  const more = others.length
    ? h("details", { open: chosen }, h("summary", {}, `${others.length} more`), h("div", { class: "pills" }, others.map(pill)))
    : null;
  return [h("div", { class: "pills" }, first.map(pill)), more];
}

function texts(facet, state, change) {
  const field = h("input", {
    type: "search", placeholder: "contains", "aria-label": `${facet.name} contains`, maxLength: 200,
    value: state.filters[facet.name]?.like ?? "",
    oninput: () => {
      if (field.value) state.filters[facet.name] = { like: field.value };
      else delete state.filters[facet.name];
      change();
    },
  });
  return field;
}

function counts(state, change) {
  const all = [...new Set([...COUNTS, state.n])].sort((one, other) => one - other);
  const field = h("select", {
    onchange: () => {
      state.n = Number(field.value);
      change("n");
    },
  }, all.map((count) => h("option", { value: count, selected: count === state.n }, String(count))));
  return h("label", { class: "line" }, "How many", field);
}

function least(state, change) {
  const shown = h("span", { class: "value" }, state.least === null ? "any" : number(state.least, 2));
  const field = h("input", {
    type: "range", min: 0, max: 1, step: 0.01, value: state.least ?? 0, "aria-label": "Minimum score",
    oninput: () => {
      state.least = Number(field.value) || null;
      shown.textContent = state.least === null ? "any" : number(state.least, 2);
      change("least");
    },
  });
  return h("label", { class: "line" }, h("span", {}, "Minimum score "), shown, field);
}

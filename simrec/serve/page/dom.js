// Makes elements from data. Texts stay texts: nothing here is ever parsed as HTML.

export const by = (id) => document.getElementById(id);

export function h(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in element && !key.startsWith("aria")) element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export function later(milliseconds, work) {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), milliseconds);
  };
}

// The last part of an id.
export const end = (id) => id.split("/").filter(Boolean).at(-1) ?? id;

export function number(value, digits = 3) {
  return Number(value).toLocaleString("en", { maximumFractionDigits: digits });
}

// Small pictures, such as 28 x 28 pixels, are shown with square pixels, not blurred. others: addresses to try if the
// first one fails. instead: the text to show if all fail.
export function picture(address, alt = "", instead = alt, ...others) {
  return h("img", {
    src: address, alt, decoding: "async",
    onload: (event) => event.target.classList.toggle("small", Math.max(event.target.naturalWidth, event.target.naturalHeight) < 48),
    onerror: (event) => {
      if (others.length) event.target.src = others.shift();
      else event.target.replaceWith(h("span", { class: "none" }, instead));
    },
  });
}

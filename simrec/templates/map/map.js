"use strict";
const $ = (id) => document.getElementById(id);
const text = (name) => document.querySelector(`script.${name}`).textContent;

function bytes(name) {
  const packed = atob(text(name));
  const out = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) out[i] = packed.charCodeAt(i);
  return out.buffer;
}

const about = JSON.parse(text("about"));
const ids = JSON.parse(text("ids"));
const values = JSON.parse(text("values"));
const fields = Object.entries(JSON.parse(text("fields")));
const places = new Uint16Array(bytes("places"));
const levels = new Uint8Array(bytes("levels"));
const numbers = new Uint8Array(bytes("numbers"));
const sizes = new Uint8Array(bytes("sizes"));
const neighbours = new Int32Array(bytes("neighbours"));
const scores = new Int16Array(bytes("scores"));
const count = about.count;
const NONE = 255;
const format = new Intl.NumberFormat("en", { maximumSignificantDigits: 6 });

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function shown(value) {
  if (value === null || value === "") return "-";
  return typeof value === "number" ? String(Number(value.toPrecision(10))) : value;
}

// Colours.

const darkness = matchMedia("(prefers-color-scheme: dark)");
let look;

function rgb(colour) {
  return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
}

function readLook() {
  const dark = darkness.matches;
  const style = getComputedStyle(document.documentElement);
  const [paper, ink, accent, faint] = ["--paper", "--ink", "--accent", "--soft"].map((name) => style.getPropertyValue(name).trim());
  const colours = dark ? about.dark : about.light;
  const packed = new Uint32Array(256).fill(pack(rgb(faint)));
  colours.forEach((colour, number) => (packed[number] = pack(rgb(colour))));
  look = { dark, paper, ink, accent, faint, colours, packed, ground: pack(rgb(paper)) };
}

function pack([red, green, blue]) {
  return (0xff000000 | (blue << 16) | (green << 8) | red) >>> 0;
}

const colourOf = (item) => look.colours[numbers[item]] || look.faint;

// Pictures: a sheet is decoded when a picture on it comes into view; the sheets out of view for longest are dropped.

const KEPT = 48;
const AT_ONCE = 3;
const perSheet = about.across * about.across;
const sheets = [...document.querySelectorAll("script.sheet")].map((source) => ({ source, bitmap: null, waiting: null, seen: 0 }));
const queue = [];
let loading = 0;
let clock = 0;

function bitmapOf(item) {
  const sheet = sheets[(item / perSheet) | 0];
  loaded(sheet);
  return sheet.bitmap;
}

function loaded(sheet) {
  sheet.seen = ++clock;
  sheet.waiting ??= new Promise((done) => {
    queue.push([sheet, done]);
    load();
  });
  return sheet.waiting;
}

async function load() {
  if (loading >= AT_ONCE || !queue.length) return;
  loading++;
  const [sheet, done] = queue.shift();
  const image = new Image();
  image.src = `data:image/jpeg;base64,${sheet.source.textContent}`;
  try {
    await image.decode();
    sheet.bitmap = await createImageBitmap(image);
  } catch {
    sheet.bitmap = document.createElement("canvas");
  }
  loading--;
  const held = sheets.filter((one) => one.bitmap && one !== sheet);
  if (held.length >= KEPT) {
    const oldest = held.reduce((a, b) => (a.seen < b.seen ? a : b));
    oldest.bitmap.close?.();
    oldest.bitmap = oldest.waiting = null;
  }
  done(sheet.bitmap);
  redraw();
  load();
}

function drawPicture(context, bitmap, item, left, top, width, height) {
  const place = item % perSheet;
  const [wide, high] = [sizes[2 * item], sizes[2 * item + 1]];
  context.imageSmoothingEnabled = wide >= 64 || high >= 64 || width < 2 * wide;
  context.imageSmoothingQuality = "medium";
  context.drawImage(bitmap, (place % about.across) * about.cell, ((place / about.across) | 0) * about.cell, wide, high, left, top, width, height);
}

// A single picture, as large as fits into a square of so many pixels.
function picture(item, side, whole = false) {
  const [wide, high] = [sizes[2 * item], sizes[2 * item + 1]];
  const factor = side / Math.max(wide, high);
  const sharp = Math.min(devicePixelRatio || 1, 2);
  const made = element("canvas", { width: Math.round((whole ? wide * factor : side) * sharp), height: Math.round((whole ? high * factor : side) * sharp) });
  loaded(sheets[(item / perSheet) | 0]).then((bitmap) => {
    const [width, height] = [wide * factor * sharp, high * factor * sharp];
    drawPicture(made.getContext("2d"), bitmap, item, (made.width - width) / 2, (made.height - height) / 2, width, height);
  });
  return made;
}

// The view: the place in the middle, and pixels for each unit of the map.

const MARGIN = 12;
const [pointsCanvas, canvas] = [$("points"), $("map")];
const pointsContext = pointsCanvas.getContext("2d", { alpha: false });
const context = canvas.getContext("2d");
const view = { x: about.side / 2, y: about.side / 2, k: 0.01 };
let [width, height, least, most] = [0, 0, 0.01, 1];
let [ratio, fine] = [1, 1];
let pixels, image;
let only = -1;
let selected = -1;
let over = -1;
let flight = null;
let asked = false;

const box = { left: Infinity, right: 0, top: Infinity, bottom: 0 };
for (let i = 0; i < count; i++) {
  const [x, y] = [places[2 * i], places[2 * i + 1]];
  if (x < box.left) box.left = x;
  if (x > box.right) box.right = x;
  if (y < box.top) box.top = y;
  if (y > box.bottom) box.bottom = y;
}

const narrow = () => width <= 720;

// Pixels at the edges that something else lies on.
function covered() {
  const open = document.body.classList.contains("open");
  if (narrow()) return { left: 0, right: 0, top: 110, bottom: open ? $("panel").offsetHeight + 8 : 60 };
  return { left: $("legend").hidden ? 0 : $("legend").offsetWidth + 16, right: open ? 356 : 0, top: 0, bottom: 0 };
}

function around(area, room = 40) {
  const edges = covered();
  const [free, tall] = [width - edges.left - edges.right - 2 * room, height - edges.top - edges.bottom - 2 * room];
  const k = Math.min(free / Math.max(area.right - area.left, 1), tall / Math.max(area.bottom - area.top, 1));
  return centred((area.left + area.right) / 2, (area.top + area.bottom) / 2, Math.max(k, 1e-4));
}

function centred(x, y, k) {
  const edges = covered();
  return { x: x + (edges.right - edges.left) / 2 / k, y: y + (edges.bottom - edges.top) / 2 / k, k };
}

const THUMB = () => (narrow() ? 30 : 36);
const GROWTH = 0.15;
const spacing = (k) => THUMB() * Math.max(k / least, 1) ** GROWTH;

function resize() {
  const first = !width;
  [width, height] = [innerWidth, innerHeight];
  ratio = Math.min(devicePixelRatio || 1, 2);
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  fine = count > 50000 ? 1 : ratio;
  pointsCanvas.width = Math.round(width * fine) + 2 * MARGIN;
  pointsCanvas.height = Math.round(height * fine) + 2 * MARGIN;
  Object.assign(pointsCanvas.style, {
    left: `${-MARGIN / fine}px`, top: `${-MARGIN / fine}px`, width: `${pointsCanvas.width / fine}px`, height: `${pointsCanvas.height / fine}px`,
  });
  image = pointsContext.createImageData(pointsCanvas.width, pointsCanvas.height);
  pixels = new Uint32Array(image.data.buffer);
  stamped = "";
  drawing = drawn = null;
  const all = around(box, narrow() ? 24 : 60);
  least = all.k;
  // Where the closest pictures of the last level have come out.
  most = ((1.4 * THUMB()) / (lastSpacing * least ** GROWTH)) ** (1 / (1 - GROWTH));
  if (first) Object.assign(view, all);
  redraw();
}

const lastSpacing = about.spacing / 2 ** ((about.steps - 1) / 2);
const limited = (k) => Math.min(Math.max(k, least / 2), Math.max(most, 4 * least));

// Points are written as pixels: each is a small disc with soft edges, prepared for 16 places within a pixel. With very
// many points, drawing in a screen's finer pixels would cost four times as much, and show hardly more.

let stamped = "";
let inked = null; // the look whose colours `mixed` has
let stamps = [];
let mixed = []; // stamps in a colour: see `mixedStamp`
let half = 0;

function makeStamps(radius, strength) {
  const key = `${radius.toFixed(2)} ${strength}`;
  if (key === stamped && inked === look) return;
  [stamped, inked] = [key, look];
  half = Math.ceil(radius + 0.5);
  const side = 2 * half + 2;
  [stamps, mixed] = [[], []];
  for (let phase = 0; phase < 16; phase++) {
    const [x, y] = [half + (phase & 3) / 4 + 0.125, half + (phase >> 2) / 4 + 0.125];
    const stamp = [];
    for (let row = 0; row < side; row++) {
      for (let column = 0; column < side; column++) {
        const far = Math.hypot(column + 0.5 - x, row + 0.5 - y);
        const weight = Math.round(256 * strength * Math.min(Math.max(radius + 0.5 - far, 0), 1));
        if (weight > 12) {
          stamp.push([row * pointsCanvas.width + column, weight]);
        }
      }
    }
    stamps.push(stamp);
  }
}

// For each pixel of a stamp: where it is, its colour's red with blue and its green, both multiplied by its weight, and
// the weight of what lies below.
function mixedStamp(phase, colour, faded) {
  return Int32Array.from(
    stamps[phase].flatMap(([offset, full]) => {
      const weight = full >> faded;
      return [offset, Math.imul(colour & 0xff00ff, weight), Math.imul(colour & 0x00ff00, weight), 256 - weight];
    }),
  );
}

// Drawing all points can take longer than a frame. It stops after so many milliseconds and goes on in the next frame;
// until it is done, the last drawing moves with the view.
const SLICE = 6;
let drawing = null; // has been begun, but isn't on the canvas
let drawn = null; // is on the canvas

const current = ({ x, y, k }) => x === view.x && y === view.y && k === view.k;
const coloured = (one) => one.only === only && one.look === look;
const settled = () => drawn && current(drawn) && coloured(drawn);

function drawPoints() {
  const until = drawn ? performance.now() + SLICE : Infinity;
  if (!settled() && !(drawing && coloured(drawing))) begin();
  if (drawing) goOn(until);
  const grown = view.k / drawn.k;
  const [right, below] = [(drawn.x - view.x) * view.k, (drawn.y - view.y) * view.k];
  pointsCanvas.style.transform = current(drawn) ? "" : `translate(${right}px, ${below}px) scale(${grown})`;
}

function begin() {
  const grown = Math.max(view.k / least, 1) ** 0.3;
  const base = count > 50000 ? 0.9 : count > 5000 ? 1.5 : 2.6;
  const strength = count > 50000 ? 0.6 : 0.8;
  makeStamps(Math.min(base * grown, 5) * fine, strength);
  pixels.fill(look.ground);
  drawing = { ...view, only, look, rest: count };
}

function goOn(until) {
  const scale = drawing.k * fine;
  const left = (width * fine) / 2 - drawing.x * scale + MARGIN - half;
  const top = (height * fine) / 2 - drawing.y * scale + MARGIN - half;
  const [wide, high, stride] = [pointsCanvas.width - 2 * half - 2, pointsCanvas.height - 2 * half - 2, pointsCanvas.width];
  const { packed } = look;
  for (let i = drawing.rest - 1; i >= 0; i--) {
    if (!(i & 1023) && performance.now() > until) {
      drawing.rest = i + 1;
      return;
    }
    const x = places[2 * i] * scale + left;
    const y = places[2 * i + 1] * scale + top;
    if (x < 0 || y < 0 || x >= wide || y >= high) continue;
    const column = x | 0;
    const row = y | 0;
    const phase = (((y - row) * 4) << 2) | ((x - column) * 4);
    const number = numbers[i];
    const faded = only >= 0 && number !== only ? 3 : 0;
    const key = (number * 16 + phase) * 2 + (faded & 1);
    const stamp = (mixed[key] ??= mixedStamp(phase, packed[number], faded));
    const start = row * stride + column;
    for (let j = 0; j < stamp.length; j += 4) {
      const at = start + stamp[j];
      const under = pixels[at];
      const r = (stamp[j + 1] + Math.imul(under & 0xff00ff, stamp[j + 3])) >>> 8;
      const g = (stamp[j + 2] + Math.imul(under & 0x00ff00, stamp[j + 3])) >>> 8;
      pixels[at] = 0xff000000 | (r & 0xff00ff) | (g & 0x00ff00);
    }
  }
  pointsContext.putImageData(image, 0, 0);
  [drawn, drawing] = [drawing, null];
}

// A level's pictures appear once there is room between them, and grow to their full size.

let visible = [];

const across = (item) => (places[2 * item] - view.x) * view.k + width / 2;
const down = (item) => (places[2 * item + 1] - view.y) * view.k + height / 2;

function drawPictures() {
  const side = spacing(view.k);
  visible = [];
  for (let i = 0; i < count && levels[i] !== NONE; i++) {
    const room = (about.spacing / 2 ** (levels[i] / 2)) * view.k / side;
    if (room < 1) break;
    const [x, y] = [across(i), down(i)];
    if (x < -side || y < -side || x > width + side || y > height + side) continue;
    if (only >= 0 && numbers[i] !== only) continue;
    const out = Math.min((room - 1) / 0.25, 1);
    const size = side * (0.3 + 0.6 * out);
    if (drawThumb(i, x, y, size, colourOf(i), 1.5)) visible.push([i, x, y, size / 2]);
  }
}

function drawThumb(item, x, y, side, frame, thick) {
  const bitmap = bitmapOf(item);
  if (!bitmap) return false;
  const [wide, high] = [sizes[2 * item], sizes[2 * item + 1]];
  const factor = side / Math.max(wide, high);
  const [w, h] = [Math.round(wide * factor), Math.round(high * factor)];
  const [left, top] = [Math.round((x - w / 2) * ratio) / ratio, Math.round((y - h / 2) * ratio) / ratio];
  context.fillStyle = frame;
  context.fillRect(left - thick, top - thick, w + 2 * thick, h + 2 * thick);
  drawPicture(context, bitmap, item, left, top, w, h);
  return true;
}

function drawSelection() {
  if (selected < 0) return;
  const [x, y] = [across(selected), down(selected)];
  const side = Math.max(spacing(view.k), 40);
  const near = nearest(selected);
  context.strokeStyle = look.accent;
  context.lineWidth = 1.5;
  context.globalAlpha = 0.8;
  context.beginPath();
  for (const item of near) {
    context.moveTo(x, y);
    context.lineTo(across(item), down(item));
  }
  context.stroke();
  context.globalAlpha = 1;
  for (const item of near.slice().reverse()) {
    drawThumb(item, across(item), down(item), side * 0.9, look.accent, 2);
    visible.push([item, across(item), down(item), side / 2]);
  }
  drawThumb(selected, x, y, side * 1.5, look.accent, 4);
  visible.push([selected, x, y, side * 0.75]);
}

function drawCross() {
  if (!canvas.matches(":focus-visible")) return;
  const edges = covered();
  const [x, y] = [(width + edges.left - edges.right) / 2, (height + edges.top - edges.bottom) / 2];
  context.strokeStyle = look.ink;
  context.lineWidth = 2;
  context.beginPath();
  for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
    context.moveTo(x + 5 * dx, y + 5 * dy);
    context.lineTo(x + 16 * dx, y + 16 * dy);
  }
  context.stroke();
  if (!flight) tip(middle(), x, y);
}

function frame(now) {
  asked = false;
  if (flight) fly(now);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  drawPoints();
  drawPictures();
  drawSelection();
  drawCross();
  if (flight || !settled()) redraw();
}

function redraw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(frame);
}

// Moving.

const EDGE = 64; // pixels from the edge to a point that is in sight: no button lies on it

const still = matchMedia("(prefers-reduced-motion: reduce)");

function go(target, milliseconds = 700) {
  const to = inSight({ x: target.x, y: target.y, k: limited(target.k) });
  flight = { from: { ...view }, to, start: null, milliseconds: still.matches ? 0 : milliseconds };
  redraw();
}

function fly(now) {
  const { from, to, milliseconds } = flight;
  flight.start ??= now;
  const part = milliseconds ? Math.min((now - flight.start) / milliseconds, 1) : 1;
  const eased = part < 0.5 ? 4 * part ** 3 : 1 - (2 - 2 * part) ** 3 / 2;
  const k = from.k * (to.k / from.k) ** eased;
  // The way is straight on the screen when the place moves as the inverse of the zoom does.
  const way = Math.abs(Math.log(to.k / from.k)) < 1e-3 ? eased : (1 / from.k - 1 / k) / (1 / from.k - 1 / to.k);
  view.k = k;
  view.x = from.x + (to.x - from.x) * way;
  view.y = from.y + (to.y - from.y) * way;
  if (part === 1) flight = null;
}

// The same view; if there were no point in sight, the nearest view that has one at its edge.
function inSight({ x, y, k }) {
  const edges = covered();
  const [left, top] = [(narrow() ? 0 : $("head").offsetWidth) + EDGE, edges.top + EDGE];
  const [right, bottom] = [Math.max(width - edges.right - EDGE, left), Math.max(height - edges.bottom - EDGE, top)];
  let [nearest, beyond, below] = [Infinity, 0, 0];
  for (let i = 0; i < count; i++) {
    const [px, py] = [(places[2 * i] - x) * k + width / 2, (places[2 * i + 1] - y) * k + height / 2];
    const [dx, dy] = [px - Math.min(Math.max(px, left), right), py - Math.min(Math.max(py, top), bottom)];
    const far = dx * dx + dy * dy;
    if (far < nearest) [nearest, beyond, below] = [far, dx, dy];
    if (!far) break;
  }
  return { x: x + beyond / k, y: y + below / k, k };
}

const move = (to) => Object.assign(view, inSight(to));

function zoomed(factor, x = width / 2, y = height / 2, start = view) {
  const k = limited(start.k * factor);
  return { k, x: start.x + (x - width / 2) * (1 / start.k - 1 / k), y: start.y + (y - height / 2) * (1 / start.k - 1 / k) };
}

function zoom(factor) {
  const edges = covered();
  const start = flight ? flight.to : view;
  go(zoomed(factor, (width + edges.left - edges.right) / 2, (height + edges.top - edges.bottom) / 2, start), 220);
}

function pan(x, y) {
  const start = flight ? flight.to : view;
  go({ x: start.x + x / start.k, y: start.y + y / start.k, k: start.k }, 160);
}

const fit = () => go(around(box, narrow() ? 24 : 60));

const pointers = new Map();
let dragged = 0;

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  if (!pointers.size) dragged = 0;
  pointers.set(event.pointerId, [event.clientX, event.clientY]);
  flight = null;
  tip(-1);
});

canvas.addEventListener("pointermove", (event) => {
  const before = pointers.get(event.pointerId);
  if (!before) {
    if (event.pointerType === "mouse") tip(itemAt(event.clientX, event.clientY, 10), event.clientX, event.clientY);
    return;
  }
  const after = [event.clientX, event.clientY];
  dragged += Math.hypot(after[0] - before[0], after[1] - before[1]);
  if (pointers.size === 1) {
    if (dragged < 4) return;
    canvas.classList.add("dragged");
    move({ x: view.x - (after[0] - before[0]) / view.k, y: view.y - (after[1] - before[1]) / view.k, k: view.k });
  } else {
    const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
    const middle = (point) => [(point[0] + other[0]) / 2, (point[1] + other[1]) / 2];
    const apart = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]);
    const [start, end] = [middle(before), middle(after)];
    view.x -= (end[0] - start[0]) / view.k;
    view.y -= (end[1] - start[1]) / view.k;
    move(zoomed(apart(after) / Math.max(apart(before), 1), ...end));
  }
  pointers.set(event.pointerId, after);
  redraw();
});

function lifted(event) {
  const there = pointers.delete(event.pointerId);
  if (pointers.size) return;
  canvas.classList.remove("dragged");
  if (!there || event.type !== "pointerup" || dragged >= 4) return;
  const item = itemAt(event.clientX, event.clientY, event.pointerType === "mouse" ? 10 : 24);
  open(item);
}
canvas.addEventListener("pointerup", lifted);
canvas.addEventListener("pointercancel", lifted);
canvas.addEventListener("pointerleave", () => tip(-1));
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  flight = null;
  tip(-1);
  const lines = event.deltaMode === 1 ? 30 : 1;
  move(zoomed(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0018)), event.clientX, event.clientY));
  redraw();
}, { passive: false });
canvas.addEventListener("dblclick", (event) => go(zoomed(2, event.clientX, event.clientY), 250));
canvas.addEventListener("focus", redraw);
canvas.addEventListener("blur", () => {
  tip(-1);
  redraw();
});

// The item whose picture is there, else the nearest point within so many pixels, or -1.
function itemAt(x, y, reach) {
  for (let i = visible.length - 1; i >= 0; i--) {
    const [item, left, top, side] = visible[i];
    if (Math.abs(x - left) <= side && Math.abs(y - top) <= side) return item;
  }
  let [found, least] = [-1, reach * reach];
  for (let i = 0; i < count; i++) {
    if (only >= 0 && numbers[i] !== only) continue;
    const [dx, dy] = [across(i) - x, down(i) - y];
    const far = dx * dx + dy * dy;
    if (far < least) [found, least] = [i, far];
  }
  return found;
}

function tip(item, x, y) {
  canvas.classList.toggle("over", item >= 0);
  if (item !== over) {
    over = item;
    $("tip").hidden = item < 0;
    if (item >= 0) {
      const words = element("span", {}, element("b", { textContent: short(ids[item]) }), element("small", { textContent: labelOf(item) }));
      const drawn = picture(item, 84, true);
      Object.assign(drawn.style, { width: `${drawn.width / ratio}px`, height: `${drawn.height / ratio}px` });
      $("tip").replaceChildren(drawn, words);
    }
  }
  if (item < 0) return;
  const { offsetWidth, offsetHeight } = $("tip");
  const left = x + 18 + offsetWidth > width ? x - 18 - offsetWidth : x + 18;
  const top = Math.min(Math.max(y - offsetHeight / 2, 8), height - offsetHeight - 8);
  $("tip").style.transform = `translate(${left}px, ${top}px)`;
}

// Items.

function labelOf(item) {
  const value = shown(values[item]);
  if (about.label === "id" || value === "-") return "";
  return about.kind === "scale" ? `${short(about.label)} ${value}` : short(value);
}

function short(words) {
  return words.length > 120 ? `${words.slice(0, 120)}…` : words;
}

function nearest(item) {
  const found = neighbours.subarray(item * about.k, (item + 1) * about.k);
  return [...found].filter((other) => other >= 0);
}

// A link names an item by its id, as JSON has it: that holds what an address can't.
function address(item) {
  return `#item=${encodeURIComponent(JSON.stringify(ids[item]).slice(1, -1))}`;
}

function named(hash) {
  if (!hash.startsWith("#item=")) return -1;
  try {
    return ids.indexOf(JSON.parse(`"${decodeURIComponent(hash.slice(6))}"`));
  } catch {
    return -1;
  }
}

function open(item, flying = false) {
  if (item < 0) return close();
  const there = address(item);
  if (location.hash !== there) history.pushState(null, "", there);
  select(item, flying);
}

function close() {
  if (location.hash) history.pushState(null, "", location.pathname + location.search);
  const within = $("panel").contains(document.activeElement);
  select(-1);
  if (within) canvas.focus();
}

function select(item, flying = false) {
  selected = item;
  document.body.classList.toggle("open", item >= 0);
  $("panel").hidden = item < 0;
  document.title = item < 0 ? about.title : `${short(ids[item])} · ${about.title}`;
  if (item >= 0) {
    fill(item);
    if (flying) approach(item);
    $("status").textContent = `${short(ids[item])} ${labelOf(item)}, and its nearest items`;
  }
  redraw();
}

// So close that its neighbours can be told apart, unless they are all over the map.
function approach(item) {
  const [x, y] = [places[2 * item], places[2 * item + 1]];
  const far = nearest(item).map((other) => Math.max(Math.abs(places[2 * other] - x), Math.abs(places[2 * other + 1] - y))).sort((a, b) => a - b);
  const reach = far.length ? far[far.length >> 1] : 500;
  const edges = covered();
  const room = Math.min(width - edges.left - edges.right, height - edges.top - edges.bottom) / 2 - 60;
  go(centred(x, y, Math.min(Math.max(room / Math.max(reach, 1), 3 * least), 60 * least)), 900);
}

function kindOf(item) {
  const dot = element("i");
  dot.style.background = colourOf(item);
  return element("p", { className: "kind" }, ...(about.kind === "one" ? [] : [dot]), labelOf(item));
}

function fill(item) {
  const closing = element("button", { type: "button", className: "close", ariaLabel: "Close", textContent: "✕" });
  closing.addEventListener("click", close);
  const words = element("div", {}, element("h2", { textContent: short(ids[item]) }));
  if (labelOf(item)) words.append(kindOf(item));
  const side = narrow() ? 94 : 288;
  const most = Math.max(sizes[2 * item], sizes[2 * item + 1]);
  // A tiny picture is enlarged so that its pixels stay square.
  const large = picture(item, most < 64 ? Math.max(Math.floor(side / most), 1) * most : side, true);
  Object.assign(large.style, { width: `${large.width / ratio}px`, height: "auto" });
  large.setAttribute("role", "img");
  large.setAttribute("aria-label", short(ids[item]));
  const facts = element("dl");
  for (const [name, column] of fields) {
    if (column[item] === null || column[item] === "") continue;
    facts.append(element("dt", { textContent: name }), element("dd", { textContent: shown(column[item]) }));
  }
  const list = element("ol");
  nearest(item).forEach((other, rank) => {
    const score = (scores[item * about.k + rank] / 1000).toFixed(3);
    const button = element("button", { type: "button", title: `${short(ids[other])} ${labelOf(other)}` }, picture(other, 80), element("span", { textContent: score }));
    button.setAttribute("aria-label", `${short(ids[other])} ${labelOf(other)}, score ${score}`);
    button.dataset.id = ids[other];
    button.addEventListener("click", () => {
      open(other, true);
      $("panel").querySelector(".close").focus({ preventScroll: true });
    });
    list.append(element("li", {}, button));
  });
  $("panel").replaceChildren(
    element("div", { className: "top" }, words, closing), element("figure", {}, large), facts,
    element("h3", { textContent: list.children.length ? "Most similar, with scores" : "There is no other item." }), list,
  );
  $("panel").scrollTop = 0;
  document.body.style.setProperty("--sheet", `${$("panel").offsetHeight}px`);
}

// The legend.

function isolate(number) {
  only = only === number ? -1 : number;
  for (const button of $("legend").querySelectorAll("button")) button.setAttribute("aria-pressed", String(Number(button.dataset.number) === only));
  $("status").textContent = only < 0 ? "All items" : `Only ${about.names[only]}`;
  redraw();
}

function fillLegend() {
  $("legend").hidden = about.kind === "one";
  const heading = element("h2", { textContent: about.label });
  if (about.kind === "scale") {
    const bar = element("canvas", { width: about.light.length, height: 1 });
    const drawing = bar.getContext("2d");
    look.colours.forEach((colour, at) => {
      drawing.fillStyle = colour;
      drawing.fillRect(at, 0, 1, 1);
    });
    const ends = [about.low, about.high].map((value) => element("span", { textContent: format.format(Number(value.toPrecision(3))) }));
    $("legend").replaceChildren(heading, bar, element("div", { className: "ends" }, ...ends));
  }
  if (about.kind !== "classes") return;
  const list = element("ul");
  about.names.forEach((name, number) => {
    const dot = element("i");
    dot.style.background = look.colours[number];
    const button = element("button", { type: "button" }, dot, element("span", { textContent: short(name) }), element("small", { textContent: format.format(about.counts[number]) }));
    button.dataset.number = number;
    button.setAttribute("aria-pressed", String(number === only));
    button.addEventListener("click", () => isolate(number));
    list.append(element("li", {}, button));
  });
  $("legend").replaceChildren(heading, list);
}

// Searching.

const SUGGESTED = 8;
let haystack = null;
let hits = [];
let chosen = -1;

function found(words) {
  haystack ??= ids.map((id, item) => `${id}\n${values[item] ?? ""}`.toLowerCase());
  const needle = words.trim().toLowerCase();
  if (!needle) return [];
  const kinds = about.kind === "classes" ? about.names.map((name, number) => ({ name, number })).filter(({ name }) => name.toLowerCase().includes(needle)).slice(0, 4) : [];
  const [exact, first, within] = [[], [], []];
  for (let i = 0; i < count && exact.length + first.length < SUGGESTED; i++) {
    const at = haystack[i].indexOf(needle);
    if (at < 0) continue;
    const list = ids[i].toLowerCase() === needle ? exact : at === 0 ? first : within;
    if (list.length < SUGGESTED) list.push({ item: i });
  }
  return [...(exact.length ? [...exact, ...kinds] : kinds), ...first, ...within].slice(0, SUGGESTED);
}

function suggest() {
  hits = found($("words").value);
  choose(hits.length ? 0 : -1);
  $("hits").replaceChildren(...hits.map(({ item, name, number }, place) => {
    const option = element("li", { id: `hit${place}`, role: "option" });
    option.setAttribute("aria-selected", String(place === chosen));
    if (item === undefined) {
      const dot = element("i");
      dot.style.background = look.colours[number];
      option.append(dot, element("span", {}, short(name), element("small", { textContent: `${format.format(about.counts[number])} items` })));
    } else {
      option.append(picture(item, 34), element("span", {}, short(ids[item]), element("small", { textContent: labelOf(item) })));
    }
    option.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      take(place);
    });
    return option;
  }));
  $("hits").hidden = !hits.length;
  $("words").setAttribute("aria-expanded", String(hits.length > 0));
  const many = hits.length === 1 ? "1 suggestion" : `${hits.length} suggestions`;
  $("status").textContent = $("words").value.trim() ? (hits.length ? many : "Nothing found") : "";
}

function choose(place) {
  chosen = place;
  [...$("hits").children].forEach((option, at) => option.setAttribute("aria-selected", String(at === place)));
  if (place < 0) $("words").removeAttribute("aria-activedescendant");
  else $("words").setAttribute("aria-activedescendant", `hit${place}`);
  $("hits").children[place]?.scrollIntoView({ block: "nearest" });
}

function closeHits() {
  hits = [];
  $("hits").hidden = true;
  $("words").setAttribute("aria-expanded", "false");
  choose(-1);
}

function take(place) {
  const { item, number } = hits[place];
  closeHits();
  if (item !== undefined) return open(item, true);
  if (only !== number) isolate(number);
  const area = { left: Infinity, right: 0, top: Infinity, bottom: 0 };
  for (let i = 0; i < count; i++) {
    if (numbers[i] !== number) continue;
    area.left = Math.min(area.left, places[2 * i]);
    area.right = Math.max(area.right, places[2 * i]);
    area.top = Math.min(area.top, places[2 * i + 1]);
    area.bottom = Math.max(area.bottom, places[2 * i + 1]);
  }
  go(around(area));
}

$("words").addEventListener("input", suggest);
$("words").addEventListener("focus", suggest);
$("words").addEventListener("blur", closeHits);
$("words").addEventListener("keydown", (event) => {
  const turn = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (turn && hits.length) {
    event.preventDefault();
    choose((chosen + turn + hits.length) % hits.length);
  } else if (event.key === "Enter" && hits.length) {
    event.preventDefault();
    take(Math.max(chosen, 0));
  } else if (event.key === "Escape") {
    event.preventDefault();
    event.stopPropagation();
    if (hits.length) closeHits();
    else if ($("words").value) $("words").value = "";
    else canvas.focus();
  }
});

// Keys and buttons.

function note(open) {
  $("note").hidden = !open;
  $("ask").setAttribute("aria-expanded", String(open));
}

function middle() {
  const edges = covered();
  return itemAt((width + edges.left - edges.right) / 2, (height + edges.top - edges.bottom) / 2, Infinity);
}

const STEP = 90;
const keys = {
  ArrowLeft: () => pan(-STEP, 0), ArrowRight: () => pan(STEP, 0), ArrowUp: () => pan(0, -STEP), ArrowDown: () => pan(0, STEP),
  "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: fit, "/": () => $("words").focus(),
  Escape: () => {
    if (!$("note").hidden) note(false);
    else if (selected >= 0) close();
    else if (only >= 0) isolate(only);
  },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target === $("words")) return;
  if (event.key.startsWith("Arrow") && $("panel").contains(event.target)) return;
  if (event.key === "Enter" && event.target === canvas) {
    open(middle());
    $("panel").querySelector(".close")?.focus({ preventScroll: true });
  } else if (keys[event.key]) keys[event.key]();
  else return;
  event.preventDefault();
});
$("in").addEventListener("click", () => zoom(1.7));
$("out").addEventListener("click", () => zoom(1 / 1.7));
$("all").addEventListener("click", fit);
$("ask").addEventListener("click", () => note($("note").hidden));

addEventListener("popstate", () => select(named(location.hash), true));
addEventListener("resize", resize);
darkness.addEventListener("change", () => {
  readLook();
  fillLegend();
  if (selected >= 0) fill(selected);
  redraw();
});

readLook();
fillLegend();
resize();
if (named(location.hash) >= 0) select(named(location.hash), true);

// The query's pictures: where they come from, how they are shown, and which part of them counts.

import { address } from "./api.js";
import { by, end, h, picture } from "./dom.js";

const ROOM = 4000; // characters of a link for all its tiny pictures

const EDGES = [128, 96, 72, 48]; // longest edges in pixels of a tiny picture: the largest for which there is room

const SHARP = 640; // longest edge in pixels of a copy for this visit

export function uploaded(file) {
  return { file, url: URL.createObjectURL(file), name: file.name || "pasted picture", crop: "" };
}

// Copies of a new picture, or of its part. tiny: for the link, so that whoever opens it sees the query. sharp: an address
// for this visit. count: how many pictures the link holds.
export async function copies(part, count) {
  try {
    const whole = await createImageBitmap(part.file, { imageOrientation: "from-image" });
    const sizes = EDGES.map((edge) => webp(small(whole, part.crop, edge)));
    const tiny = sizes.find((one) => one.length <= ROOM / count) ?? sizes.at(-1);
    return {
      tiny: tiny.replaceAll("+", "-").replaceAll("/", "_"),
      sharp: small(whole, part.crop, SHARP).toDataURL("image/jpeg", 0.85),
    };
  } catch {
    return { tiny: "", sharp: "" }; // a format that browsers don't show, such as HEIC
  }
}

function small(whole, crop, edge) {
  const [left, top, right, bottom] = edges(crop);
  const [width, height] = [(right - left) * whole.width, (bottom - top) * whole.height];
  const scale = Math.min(1, edge / Math.max(width, height));
  const size = (length) => Math.max(1, Math.round(length * scale));
  const canvas = h("canvas", { width: size(width), height: size(height) });
  const context = canvas.getContext("2d", { alpha: false });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(whole, left * whole.width, top * whole.height, width, height, 0, 0, canvas.width, canvas.height);
  return canvas;
}

// A WebP in base64, without the colour profile that Chromium adds, which takes as much room as a tiny picture.
function webp(canvas) {
  const [kind, data] = canvas.toDataURL("image/webp", 0.5).split(",");
  if (!kind.includes("webp")) return canvas.toDataURL("image/jpeg", 0.5).split(",")[1]; // Safari writes no WebP
  const file = atob(data);
  const pixels = file.slice(file.indexOf("VP8 "));
  const size = pixels.length + 4;
  return btoa(`RIFF${String.fromCharCode(size & 255, size >> 8, 0, 0)}WEBP${pixels}`);
}

export function source(part, recommender) {
  if (part.id !== undefined) return address(recommender, "previews", part.id);
  if (part.url) return part.url;
  const kind = part.thumb?.startsWith("UklGR") ? "webp" : "jpeg"; // which begins with RIFF
  return part.thumb ? `data:image/${kind};base64,${part.thumb.replaceAll("-", "+").replaceAll("_", "/")}` : "";
}

export const called = (part) => part.name ?? end(part.id);

function edges(crop) {
  return crop ? crop.split(",").map((edge) => parseFloat(edge) / 100) : [0, 0, 1, 1];
}

// Draws one side of the question. act: what happens when a picture is removed, or a part of it chosen.
export function draw(parts, place, recommender, act) {
  place.replaceChildren(
    ...parts.map((part) => {
      const remove = h("button", {
        type: "button", class: "remove", "aria-label": `Remove ${called(part)}`, onclick: () => act.remove(part),
      }, "×");
      const shown = source(part, recommender);
      const frame = h("div", { class: part.url ? "frame upload" : "frame" }, shown ? picture(shown, called(part)) : h("span", { class: "none" }, called(part)));
      const figure = h("figure", {}, frame, remove, h("figcaption", {}, called(part)));
      if ((part.file || part.id !== undefined) && act.crop) {
        const box = croppable(frame, part, act.crop);
        const hint = h("p", { class: "hint" }, part.crop
          ? h("button", { type: "button", class: "quiet", onclick: () => act.crop(part, "") }, "Use the whole picture")
          : "Drag a box around the part that you mean.");
        frame.append(box);
        figure.append(hint);
        frame.querySelector("img").addEventListener("error", () => {
          box.remove(); // there is no picture to mark a part of
          if (!part.crop) hint.remove();
        });
      } else if (act.crop) {
        figure.append(h("p", { class: "hint" }, "To mark a part, choose the picture again: a link holds only a tiny copy."));
      }
      return figure;
    }),
  );
  place.classList.toggle("several", parts.length > 1);
}

// A box that is dragged over the picture, or moved with the arrow keys (with Shift its size).
function croppable(frame, part, chosen) {
  const box = h("div", {
    class: "box", tabIndex: 0, role: "group",
    "aria-label": "The part that you mean: arrow keys move it, Shift and arrow keys change its size",
  });
  // Where the picture itself is: it fills its element in one direction only.
  const area = () => {
    const image = frame.querySelector("img");
    const outer = (image ?? frame).getBoundingClientRect();
    if (!image?.naturalWidth) return outer;
    const scale = Math.min(outer.width / image.naturalWidth, outer.height / image.naturalHeight);
    const [width, height] = [scale * image.naturalWidth, scale * image.naturalHeight];
    return new DOMRect(outer.left + (outer.width - width) / 2, outer.top + (outer.height - height) / 2, width, height);
  };
  let now = edges(part.crop).map((edge) => edge || 0); // a link may say anything
  const show = () => {
    const [outer, inner] = [frame.getBoundingClientRect(), area()];
    box.classList.toggle("whole", now.join() === "0,0,1,1");
    box.style.left = `${inner.left - outer.left + now[0] * inner.width}px`;
    box.style.top = `${inner.top - outer.top + now[1] * inner.height}px`;
    box.style.width = `${(now[2] - now[0]) * inner.width}px`;
    box.style.height = `${(now[3] - now[1]) * inner.height}px`;
  };
  const finish = () => {
    const large = now[2] - now[0] > 0.03 && now[3] - now[1] > 0.03;
    const all = now.every((edge, place) => Math.abs(edge - [0, 0, 1, 1][place]) < 0.01);
    chosen(part, large && !all ? now.map((edge) => `${(edge * 100).toFixed(2)}%`).join() : "");
  };
  const inside = (value) => Math.min(1, Math.max(0, value));
  frame.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !box.isConnected) return;
    event.preventDefault();
    frame.setPointerCapture(event.pointerId);
    const around = area();
    const at = (moved) => [inside((moved.clientX - around.left) / around.width),
                           inside((moved.clientY - around.top) / around.height)];
    const start = at(event);
    const before = now;
    let dragged = false;
    const move = (moved) => {
      const end = at(moved);
      dragged ||= Math.abs(end[0] - start[0]) + Math.abs(end[1] - start[1]) > 0.05;
      if (!dragged) return;
      now = [Math.min(start[0], end[0]), Math.min(start[1], end[1]),
             Math.max(start[0], end[0]), Math.max(start[1], end[1])];
      show();
    };
    const end = () => {
      frame.removeEventListener("pointermove", move);
      if (dragged) finish();
      else now = before;
    };
    frame.addEventListener("pointermove", move);
    frame.addEventListener("pointerup", end, { once: true });
  });
  box.addEventListener("keydown", (event) => {
    const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
    if (!x && !y) return;
    event.preventDefault();
    const step = 0.05;
    if (event.shiftKey) {
      now = [now[0], now[1], inside(Math.max(now[0] + 0.1, now[2] + x * step)),
             inside(Math.max(now[1] + 0.1, now[3] + y * step))];
    } else {
      const right = Math.min(1 - now[2], Math.max(-now[0], x * step));
      const down = Math.min(1 - now[3], Math.max(-now[1], y * step));
      now = [now[0] + right, now[1] + down, now[2] + right, now[3] + down];
    }
    show();
    clearTimeout(box.timer);
    box.timer = setTimeout(finish, 400);
  });
  new ResizeObserver(show).observe(frame);
  frame.querySelector("img").addEventListener("load", show);
  frame.classList.add("croppable");
  return box;
}

// All ways in which pictures arrive. take: called with the files.
export function listen(take) {
  const pictures = (list) => [...(list ?? [])].filter((file) => file.size);
  for (const [button, input] of [["choose", "files"], ["photograph", "camera"]]) {
    by(button).addEventListener("click", () => by(input).click());
    by(input).addEventListener("change", () => {
      take(pictures(by(input).files));
      by(input).value = "";
    });
  }
  document.addEventListener("paste", (event) => {
    const files = pictures(event.clipboardData?.files);
    if (files.length) {
      event.preventDefault();
      take(files);
    }
  });
  const target = by("target");
  document.addEventListener("dragover", (event) => {
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    target.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) target.hidden = true;
  });
  document.addEventListener("drop", (event) => {
    target.hidden = true;
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    take(pictures(event.dataTransfer.files));
  });
}

// The question, and the address that holds it: a link, a reload and the back button bring back the same question.
//
// A part of the question is an item {id, name, crop} or a picture {code, thumb, name}: with its code, a picture can be
// looked up again without the file. A new picture is {file, url, name, crop} until its first look-up.

export const USUAL = 24;

const held = new Map(); // the pictures of this visit, by code

// Keeps a picture for the back button, and a sharp copy of it for a reload.
export function hold(part, sharp) {
  held.set(part.code, part);
  try {
    sessionStorage.setItem(part.code, sharp);
  } catch {
    // The browser allows none, or it is full: after a reload, the link's tiny copy is shown.
  }
}

function sharp(code) {
  try {
    return sessionStorage.getItem(code);
  } catch {
    return null;
  }
}

export function empty(recommender = "") {
  return { recommender, wanted: [], less: [], n: USUAL, least: null, filters: {} };
}

function written(part) {
  if (part.id !== undefined) return part.crop ? `part:${part.crop}~${part.id}` : `id:${part.id}`;
  return `code:${part.code}~${part.thumb ?? ""}~${part.name ?? ""}`;
}

function read(text) {
  if (text.startsWith("id:")) return { id: text.slice(3) };
  if (text.startsWith("part:")) {
    const [crop, ...id] = text.slice(5).split("~");
    return { crop, id: id.join("~") };
  }
  const [code, thumb = "", ...name] = text.replace(/^code:/, "").split("~");
  return held.get(code) ?? {
    code, thumb: /^[\w+/=-]*$/.test(thumb) ? thumb : "", url: sharp(code), name: name.join("~") || "a picture",
  };
}

export function toAddress(state) {
  const query = new URLSearchParams();
  if (state.recommender) query.set("in", state.recommender);
  for (const part of state.wanted) if (part.id !== undefined || part.code) query.append("like", written(part));
  for (const part of state.less) if (part.id !== undefined || part.code) query.append("less", written(part));
  if (state.n !== USUAL) query.set("n", state.n);
  if (state.least !== null) query.set("score", state.least);
  for (const [name, filter] of Object.entries(state.filters)) {
    if (filter.any) for (const value of filter.any) query.append(`is.${name}`, value);
    else if (filter.like !== undefined) query.set(`has.${name}`, filter.like);
    else query.set(`of.${name}`, `${filter.from ?? ""}..${filter.to ?? ""}`);
  }
  const text = query.toString();
  return text ? `?${text}` : "/";
}

export function fromAddress(search) {
  const query = new URLSearchParams(search);
  const state = empty(query.get("in") ?? "");
  state.wanted = query.getAll("like").map(read);
  state.less = query.getAll("less").map(read);
  const n = Number(query.get("n"));
  if (Number.isInteger(n) && n > 0 && n <= 1000) state.n = n;
  const least = query.get("score");
  if (least && Number.isFinite(Number(least))) state.least = Number(least);
  for (const [key, value] of query) {
    const [kind, name] = [key.slice(0, key.indexOf(".")), key.slice(key.indexOf(".") + 1)];
    if (kind === "is") (state.filters[name] ??= { any: [] }).any?.push(value);
    if (kind === "has") state.filters[name] = { like: value };
    if (kind === "of") {
      const [from, to] = value.split("..").map((end) => (end && Number.isFinite(Number(end)) ? Number(end) : null));
      state.filters[name] = { from, to };
    }
  }
  return state;
}

const column = (name) => `"${name.replaceAll('"', '""')}"`;
const text = (value) => `'${value.replaceAll("'", "''")}'`;

// The filter in the language of --where.
export function where(filters) {
  const conditions = [];
  for (const [name, filter] of Object.entries(filters)) {
    if (filter.any) conditions.push(`${column(name)} IN (${filter.any.map(text).join(", ")})`);
    else if (filter.like !== undefined) conditions.push(`${column(name)} LIKE ${text(`%${filter.like}%`)}`);
    else {
      if (filter.from !== null) conditions.push(`${column(name)} >= ${filter.from}`);
      if (filter.to !== null) conditions.push(`${column(name)} <= ${filter.to}`);
    }
  }
  return conditions.join(" AND ");
}

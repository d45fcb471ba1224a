// The server's answers. Errors carry the server's own sentence; if the token is missing, the page asks for it.

export class ApiError extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

let login = async () => {};

export function onLogin(ask) {
  login = ask;
}

async function asked(address, options = {}) {
  let answer;
  try {
    answer = await fetch(address, { ...options, credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server doesn't answer: is 'simrec serve' still running?");
  }
  if (answer.status === 401) {
    await login();
    return asked(address, options);
  }
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  const said = await answer.json().catch(() => ({}));
  throw new ApiError(answer.status, said.error ?? `The server answers ${answer.status}.`);
}

export async function session(token) {
  const answer = await fetch("/api/session", { method: "POST", headers: { Authorization: `Bearer ${token}` } });
  return answer.ok;
}

const path = (id) => id.toWellFormed().split("/").map(encodeURIComponent).join("/");

export const address = (name, kind, id) => `/api/recommenders/${encodeURIComponent(name)}/${kind}/${path(id)}`;

export const recommenders = () => asked("/api/recommenders");

export const recommender = (name) => asked(`/api/recommenders/${encodeURIComponent(name)}`);

export const item = (name, id) => asked(address(name, "items", id));

export function items(name, n, where, signal) {
  const query = new URLSearchParams({ n, ...(where && { where }) });
  return asked(`/api/recommenders/${encodeURIComponent(name)}/items?${query}`, { signal });
}

export function similar(state, where, signal) {
  const form = new FormData();
  form.append("recommender", state.recommender);
  form.append("with_copies", "true");
  form.append("n", state.n);
  if (where) form.append("where", where);
  if (state.least !== null) form.append("min_score", state.least);
  for (const part of state.wanted) {
    if (part.id !== undefined) form.append("id", part.id);
    else if (part.code) form.append("code", part.code);
    else form.append("file", part.file, part.name);
  }
  const items = (part) => part.id !== undefined;
  const files = (part) => !items(part) && !part.code;
  for (const kind of [files, items]) for (const part of state.wanted.filter(kind)) form.append("crop", part.crop ?? "");
  for (const part of state.less) {
    if (part.id !== undefined) form.append("less_id", part.id);
    else form.append("less_code", part.code);
  }
  return asked("/api/similar", { method: "POST", body: form, signal });
}

export function views(name, part) {
  if (part.id !== undefined) {
    return asked(address(name, "views", part.id) + (part.crop ? `?${new URLSearchParams({ crop: part.crop })}` : ""));
  }
  const form = new FormData();
  form.append("recommender", name);
  form.append("file", part.file, part.name);
  if (part.crop) form.append("crop", part.crop);
  return asked("/api/views", { method: "POST", body: form });
}

// Talking to the server: JSON in, JSON out, and every failure as one kind of Problem.

const csrfToken = document.querySelector('meta[name="csrf-token"]')?.content;
const ANSWER_MILLISECONDS = 15_000;

/** A refused or lost request. `status` 0: no answer at all. */
export class Problem extends Error {
  constructor({ status = 0, title = "No answer", detail = "", errors = [] }) {
    super(detail || title);
    Object.assign(this, { status, title, detail, errors });
  }
}

/** Call the API. Raises Problem. */
export async function call(method, path, body) {
  const form = body instanceof FormData;
  const headers = { Accept: "application/json" };
  if (csrfToken && method !== "GET") headers["X-CSRF-Token"] = csrfToken;
  if (body !== undefined && !form) headers["Content-Type"] = "application/json";
  const options = { method, headers, credentials: "same-origin" };
  if (body !== undefined) options.body = form ? body : JSON.stringify(body);
  // An upload may take long on a slow line; everything else is small.
  if (!form) options.signal = AbortSignal.timeout(ANSWER_MILLISECONDS);
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Problem({ detail: "The server does not answer. Nothing was changed on this page; try again." });
  }
  return answerOf(response);
}

export const overview = () => call("GET", "/api/overview");
export const submit = (name, payload, priority) => call("POST", "/api/tasks", { name, payload, priority });
export const submitMany = (tasks) => call("POST", "/api/tasks/batch", { tasks });
export const task = (id) => call("GET", `/api/tasks/${id}`);
export const taskWithEvents = (id) => call("GET", `/api/tasks/${id}?events=1`);
export const cancel = (id) => call("POST", `/api/tasks/${id}/cancel`);
export const retry = (id) => call("POST", `/api/tasks/${id}/retry`);
export const reprioritise = (id, priority) => call("PUT", `/api/tasks/${id}/priority`, { priority });

export function list({ status = null, cursor = null, limit = 50 } = {}) {
  const query = new URLSearchParams({ limit });
  if (status) query.set("status", status);
  if (cursor) query.set("cursor", cursor);
  return call("GET", `/api/tasks?${query}`);
}

export function upload(file) {
  const form = new FormData();
  form.append("file", file);
  return call("POST", "/api/uploads", form);
}

/** Hear of a task as it happens: `onProgress({ percent, step })`, and `onMove({ status, attempt })` when it has
 * another status or has ended. Returns a function that stops listening.
 *
 * A stream that breaks is not opened again: the page's own poll still tells the changes, a little later. */
export function follow(id, { onProgress, onMove }) {
  const source = new EventSource(`/api/tasks/${id}/events`);
  const hear = (kind, tell) => source.addEventListener(kind, (event) => tell(JSON.parse(event.data)));
  hear("progress", onProgress);
  hear("status", onMove);
  hear("end", (end) => {
    source.close();
    onMove(end);
  });
  source.addEventListener("error", () => source.close());
  return () => source.close();
}

async function answerOf(response) {
  const text = await response.text();
  const json = /json/.test(response.headers.get("Content-Type") ?? "") ? safeParse(text) : null;
  if (response.ok && json !== null) return json;
  if (response.ok && text === "") return null;
  if (response.status === 401) {
    throw new Problem({ status: 401, title: "Signed out", detail: "You are signed out. Load the page again to sign in." });
  }
  if (json) throw new Problem({ ...json, status: response.status });
  throw new Problem({
    status: response.status,
    title: "Unexpected answer",
    detail: `The server gave an answer that this page does not understand (${response.status}).`,
  });
}

function safeParse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

// What a task was given and what came out of it, as something to look at.

import { el, fill, icon } from "./dom.js";

/** The result of a task: a described picture as a picture, anything else as JSON, or, where there is little
 * room, as one line if it fits. Null: there is none. */
export function resultView(task, { brief = false } = {}) {
  if (task.result == null) return null;
  if (isDescription(task.result)) return descriptionView(task);
  return (brief && lineView(task.result)) || jsonView(task.result);
}

/** The picture that a task was given; null if it was given none that the server can show. */
export function pictureOf(task, alt = "") {
  const name = task.payload?.upload;
  if (typeof name !== "string") return null;
  const image = el("img", { class: "picture", src: `/api/uploads/${encodeURIComponent(name)}`, alt, loading: "lazy", decoding: "async" });
  image.addEventListener("error", () => image.remove());
  return image;
}

/** JSON, indented; long texts wrap. */
export function jsonView(value) {
  return el("pre", { class: "json", tabindex: "0" }, JSON.stringify(value, null, 2));
}

/** The way a task is: its step while it runs, its error, or when it will go on. */
export function outcomeView(task) {
  if (task.error && task.status !== "COMPLETED") return el("p", { class: "task-error" }, task.error);
  return null;
}

/** A button that copies a text and says so. */
export function copyButton(text, label) {
  const button = el("button", { type: "button", class: "quiet icon-only", "aria-label": label, title: label }, icon("copy"));
  button.addEventListener("click", async () => {
    const copied = await navigator.clipboard?.writeText(text).then(() => true, () => false);
    fill(button, icon(copied ? "check" : "cross"));
    setTimeout(() => fill(button, icon("copy")), 1500);
  });
  return button;
}

const LINE_CHARACTERS = 90;

/** A small flat result in words; null if it is not small and flat. */
function lineView(result) {
  const entries = typeof result === "object" ? Object.entries(result) : [["result", result]];
  if (!entries.length || entries.some(([, value]) => typeof value === "object")) return null;
  const text = entries.map(([key, value]) => `${key.replaceAll("_", " ")}: ${value}`).join(" · ");
  return text.length <= LINE_CHARACTERS ? el("p", { class: "result-line" }, text) : null;
}

const isDescription = (result) => typeof result === "object" && typeof result.alt_text === "string" && typeof result.facts === "object";

function descriptionView(task) {
  const { alt_text: text, engine, facts } = task.result;
  const words = el("div", { class: "described-words" },
    el("p", { class: "alt-text" }, text, " ", copyButton(text, "Copy the alt text")),
    swatches(facts.main_colours ?? []),
    el("p", { class: "hint" }, factsLine(facts)),
    el("p", { class: "hint" }, engineLine(engine)));
  return el("div", { class: "described" }, pictureOf(task, text), words);
}

function swatches(colours) {
  const share = (colour) => `${Math.round((colour.share ?? 0) * 100)} %`;
  return el("ul", { class: "swatches", "aria-label": "Main colours" }, colours.map((colour) => {
    const patch = el("span", { class: "patch" });
    // Only a plain colour gets into a style.
    if (/^#[0-9a-f]{6}$/i.test(colour.hex ?? "")) patch.style.background = colour.hex;
    return el("li", { title: colour.hex }, patch, `${colour.name} `, el("span", { class: "share" }, share(colour)));
  }));
}

function factsLine(facts) {
  const parts = [`${facts.width} × ${facts.height}`, facts.format, facts.orientation, facts.brightness && `brightness ${facts.brightness.word}`, facts.contrast && `contrast ${facts.contrast.word}`, facts.exif?.camera];
  return parts.filter(Boolean).join(" · ");
}

function engineLine(engine) {
  if (engine === "facts") return "Drafted from measured facts, without a vision model.";
  return `Drafted by ${String(engine).replace(/^vision:/, "the vision model ")}.`;
}

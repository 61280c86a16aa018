// Asking before something that cannot be undone.

import { el, fill } from "./dom.js";

/** Ask; resolves to true only if the visitor presses the button that says what will happen. */
export function confirmed(title, text, yes) {
  const dialog = document.getElementById("question");
  const answer = (value) => () => dialog.close(value);
  fill(
    dialog,
    el("h2", { id: "question-title" }, title),
    el("p", {}, text),
    el("div", { class: "buttons" }, el("button", { type: "button", onclick: answer("") }, "Keep"), el("button", { type: "button", class: "danger", onclick: answer("yes") }, yes)),
  );
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

/** Ask for a word to be typed; resolves to true only if it was. The button carries the word and waits for it. */
export function typed(title, text, word) {
  const dialog = document.getElementById("question");
  const yes = el("button", { type: "submit", class: "danger", disabled: true }, word);
  const field = el("input", { id: "typed", autocomplete: "off", spellcheck: "false", oninput: (event) => (yes.disabled = event.target.value.trim() !== word) });
  const keep = el("button", { type: "button", onclick: () => dialog.close("") }, "Keep");
  const form = el("form", {}, el("label", { for: "typed" }, `Type “${word}” if you mean it`), field, el("div", { class: "buttons" }, keep, yes));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    dialog.close("yes");
  });
  fill(dialog, el("h2", { id: "question-title" }, title), el("p", {}, text), form);
  dialog.returnValue = "";
  dialog.showModal();
  field.focus();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

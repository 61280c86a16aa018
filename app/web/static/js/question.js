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

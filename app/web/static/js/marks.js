// The small marks of a task: its status, its track, its progress.

import { el, icon } from "./dom.js";
import { STATUSES, TRACK_WORDS } from "./words.js";

/** The status as icon and word. A running task that was asked to stop says so. */
export function statusMark(task) {
  const known = STATUSES[task.status] ?? { word: task.status, icon: "box", tone: "soft", meaning: "" };
  const stopping = task.status === "PROCESSING" && task.cancel_requested;
  const held = task.status === "SCHEDULED" && task.held;
  const word = stopping ? "Stopping" : held ? "Held" : known.word;
  return el("span", { class: `status ${known.tone}`, title: known.meaning }, icon(known.icon), word);
}

/** The track as a coloured stroke and its word; a dash where nobody knows it. */
export function trackMark(track) {
  if (!track) return el("span", { class: "soft" }, "–");
  return el("span", { class: `track-mark ${track}` }, TRACK_WORDS[track]);
}

/** A bar that fills, with its step. */
export class ProgressBar {
  constructor() {
    this.fill = el("span", { class: "bar-fill" });
    this.element = el("div", { class: "progress", role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100", "aria-label": "Progress" }, this.fill);
  }

  set(percent) {
    this.fill.style.transform = `scaleX(${Math.max(0, Math.min(100, percent)) / 100})`;
    this.element.setAttribute("aria-valuenow", String(percent));
  }
}

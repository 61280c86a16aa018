// The panel of one task: its times as a picture, what it was given, what came out, what happened to it.

import * as api from "./api.js";
import { el, fill, icon, showProblem } from "./dom.js";
import { ProgressBar, statusMark, trackMark } from "./marks.js";
import { copyButton, jsonView, pictureOf, resultView } from "./result.js";
import { clockTime, duration, fullTime, isEnded, isWaiting, PRIORITIES, RETRIABLE, times } from "./words.js";

export class DetailPanel {
  constructor(dialog, { soon, trackOf }) {
    Object.assign(this, { dialog, soon, trackOf, id: null });
    dialog.addEventListener("close", () => this.left());
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close(); // the backdrop
    });
  }

  /** Open the panel on a task. */
  async open(id) {
    this.id = id;
    this.task = null;
    fill(this.dialog, this.head(el("h2", { id: "detail-title" }, "Task")), el("p", { class: "hint" }, "Loading…"));
    if (!this.dialog.open) this.dialog.showModal();
    history.replaceState(null, "", `#task-${id}`);
    await this.load();
    this.stop?.();
    this.stop = this.task && !isEnded(this.task.status) ? this.follow(id) : null;
  }

  /** Take a new overview: load the task anew if it has moved. */
  see(snapshot) {
    if (!this.id || !this.task) return;
    const brief = snapshot.tasks.find((task) => task.id === this.id);
    const moved = brief && (brief.status !== this.task.status || brief.attempt !== this.task.attempt || brief.priority !== this.task.priority);
    // One that the overview does not name has to be asked about, unless nothing can happen to it any more.
    if (moved || (!brief && !isEnded(this.task.status))) this.load();
    else this.tick();
  }

  async load() {
    const { id } = this;
    try {
      const task = await api.taskWithEvents(id);
      if (id === this.id) this.show(task);
    } catch (problem) {
      if (id !== this.id || this.task) return;
      fill(this.dialog, this.head(el("h2", { id: "detail-title" }, problem.title)), el("p", {}, problem.detail));
    }
  }

  follow(id) {
    const mine = (tell) => (state) => id === this.id && this.task && tell(state);
    return api.follow(id, {
      onProgress: mine((progress) => this.showProgress(progress)),
      onMove: mine(({ status, attempt }) => (status !== this.task.status || (attempt ?? this.task.attempt) !== this.task.attempt) && this.load()),
    });
  }

  left() {
    this.stop?.();
    Object.assign(this, { stop: null, id: null, task: null });
    if (location.hash.startsWith("#task-")) history.replaceState(null, "", location.pathname + location.search);
  }

  show(task) {
    const kept = this.keptFocus();
    this.task = task;
    this.bar = new ProgressBar();
    this.step = el("p", { class: "hint" });
    this.timeline = el("div", { class: "timeline" });
    this.problem = el("p", { class: "beside-error", role: "alert", hidden: true });
    const title = el("h2", { id: "detail-title" }, task.name);
    fill(
      this.dialog,
      this.head(title, el("p", { class: "detail-sub" }, statusMark(task), el("span", { class: "mono hint" }, task.id), copyButton(task.id, "Copy the id"))),
      this.progressPart(task),
      this.actions(task), this.problem,
      this.timeline,
      facts(task, this.trackOf(task)),
      part("Error", task.error && el("pre", { class: "json task-error", tabindex: "0" }, task.error)),
      part("Result", resultView(task)),
      part("Payload", el("div", {}, task.status === "COMPLETED" ? null : pictureOf(task), jsonView(task.payload))),
      part("What happened", history_(task)),
    );
    this.tick();
    if (kept) this.dialog.querySelector(`[data-keep="${kept}"]`)?.focus();
  }

  /** What had the focus, by name: a panel that is drawn anew must not throw a keyboard user out of it. */
  keptFocus() {
    return this.dialog.contains(document.activeElement) ? (document.activeElement.dataset.keep ?? "close") : null;
  }

  head(...children) {
    const close = el("button", { type: "button", class: "quiet icon-only", "aria-label": "Close", "data-keep": "close", onclick: () => this.dialog.close() }, icon("cross"));
    return el("header", { class: "sheet-head" }, el("div", {}, ...children), close);
  }

  progressPart(task) {
    this.setProgress(task.progress);
    return task.status === "PROCESSING" ? el("div", { class: "sheet-progress" }, this.bar.element, this.step) : null;
  }

  setProgress({ percent, step }) {
    this.bar.set(percent);
    this.step.textContent = `${percent} %${step ? ` · ${step}` : ""}`;
  }

  showProgress(progress) {
    this.task = { ...this.task, progress };
    this.setProgress(progress);
    this.tick();
  }

  actions(task) {
    const button = (keep, name, words, work) => el("button", { type: "button", "data-keep": keep, onclick: () => this.act(work) }, icon(name), words);
    const list = [];
    if (isWaiting(task.status) || (task.status === "PROCESSING" && !task.cancel_requested)) list.push(button("verb", "cross", "Cancel", () => api.cancel(task.id)));
    if (RETRIABLE.includes(task.status)) list.push(button("verb", "retry", "Retry", () => api.retry(task.id)));
    if (isWaiting(task.status)) {
      const choice = el("select", { "data-keep": "priority" }, PRIORITIES.map((name) => el("option", { value: name, selected: name === task.priority }, name)));
      choice.addEventListener("change", () => this.act(() => api.reprioritise(task.id, choice.value)));
      list.push(el("label", { class: "inline" }, "Priority ", choice));
    }
    return list.length ? el("div", { class: "sheet-actions" }, list) : null;
  }

  async act(work) {
    try {
      await work();
      await this.load();
    } catch (problem) {
      showProblem(this.problem, problem);
    }
    this.soon();
  }

  tick() {
    if (this.task && this.timeline) fill(this.timeline, timelineView(this.task));
  }
}

/** Waited and ran as lengths on one line. */
function timelineView(task) {
  const { waited, ran } = times(task, new Date());
  const stretch = (name, seconds, words) => {
    const piece = el("div", { class: `stretch ${name}` }, el("span", {}, `${words} ${duration(seconds)}`));
    piece.style.flexGrow = String(Math.max(seconds, 0.001));
    return piece;
  };
  const parts = [waited != null && stretch("waited", waited, isWaiting(task.status) ? "waiting" : "waited")];
  if (ran != null) parts.push(stretch(`ran ${task.status.toLowerCase()}`, ran, isEnded(task.status) ? "ran" : "running"));
  return parts.filter(Boolean);
}

function facts(task, track) {
  const rows = [
    ["Priority", task.priority],
    ["Track", trackMark(track)],
    ["Attempt", task.attempt ? `${task.attempt}${task.failures ? `, ${task.failures} failed` : ""}` : "not started yet"],
    ["Worker", task.worker],
    ["User", task.user_id],
    ["Created", fullTime(task.created_at)],
    ["Runs at", task.run_at && fullTime(task.run_at)],
    ["Started", task.started_at && fullTime(task.started_at)],
    ["Ended", task.ended_at && fullTime(task.ended_at)],
  ];
  return el("dl", { class: "facts" }, rows.filter(([, value]) => value).flatMap(([word, value]) => [el("dt", {}, word), el("dd", {}, value)]));
}

/** The events of a task. A smooth run leaves none: they tell what was unusual. */
function history_(task) {
  if (!task.events?.length) return el("p", { class: "hint" }, "Nothing unusual: no retry, no cancel, no change of track.");
  return el("ol", { class: "events" }, task.events.map((event) => el("li", {},
    el("time", { datetime: event.at, title: fullTime(event.at) }, clockTime(event.at)),
    el("div", {}, el("b", {}, event.kind), el("p", { class: "hint" }, detailWords(event.detail))))));
}

const detailWords = (detail) =>
  Object.entries(detail ?? {})
    .filter(([, value]) => value !== null && value !== "")
    .map(([key, value]) => `${key.replaceAll("_", " ")}: ${typeof value === "object" ? JSON.stringify(value) : value}`)
    .join(" · ");

const part = (title, content) => (content ? el("section", { class: "sheet-part" }, el("h3", {}, title), content) : null);

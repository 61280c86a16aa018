// The tasks that this visitor has sent: each a card that waits, runs and ends before their eyes.

import * as api from "./api.js";
import { announce, el, fill, icon, setText } from "./dom.js";
import { ProgressBar, statusMark } from "./marks.js";
import { outcomeView, pictureOf, resultView } from "./result.js";
import { ago, duration, isEnded, isWaiting, STATUSES, times } from "./words.js";

const MOST_CARDS = 8;
const MEMORY_KEY = "twintrack-yours";

export class Yours {
  constructor({ section, list, clear, openTask }) {
    Object.assign(this, { section, list, openTask, cards: new Map(), followed: null });
    clear.addEventListener("click", () => this.forgetAll());
    for (const id of rememberedIds().reverse()) this.add({ id });
  }

  /** Show a card for a task that was accepted; `seen` is what is known of it so far. */
  add(seen, { title = null } = {}) {
    const card = new Card(seen, title, this.openTask);
    this.cards.set(seen.id, card);
    this.list.prepend(card.element);
    while (this.cards.size > MOST_CARDS) this.drop(this.cards.keys().next().value);
    this.remember();
    this.refresh(card);
    this.followNewest();
    return card;
  }

  /** A card for what has not become a task yet: an upload under way, or one that was refused. */
  addUpload(name) {
    const card = new UploadCard(name);
    this.list.prepend(card.element);
    this.section.hidden = false;
    return card;
  }

  /** Take what a new overview says about these tasks. */
  see(snapshot, now) {
    const briefs = new Map(snapshot.tasks.map((task) => [task.id, task]));
    for (const [id, card] of this.cards) {
      const brief = briefs.get(id);
      if (brief && card.task && brief.status === "PROCESSING" && card.task.status === "PROCESSING" && id !== this.followed?.id) {
        card.show({ ...card.task, progress: { percent: brief.percent, step: brief.step } }, now);
      }
      if (!card.task || !isEnded(card.task.status)) {
        if (!brief || differs(card.task, brief)) this.refresh(card, now);
        else card.tick(now);
      } else if (brief && brief.status !== card.task.status) {
        this.refresh(card, now);
      }
    }
  }

  async refresh(card, now = new Date()) {
    if (card.asking) return;
    card.asking = true;
    try {
      card.show(await api.task(card.id), now);
      this.section.hidden = false;
    } catch (problem) {
      if (problem.status === 404) this.drop(card.id);
    } finally {
      card.asking = false;
    }
    this.followNewest();
  }

  /** Keep one stream open, for the newest task that still runs; the others are told by the poll. */
  followNewest() {
    const newest = [...this.cards.values()].reverse().find((card) => card.task && !isEnded(card.task.status));
    if (newest?.id === this.followed?.id) return;
    this.followed?.stop();
    this.followed = null;
    if (!newest) return;
    const stop = api.follow(newest.id, {
      onProgress: (progress) => newest.task?.status === "PROCESSING" && newest.show({ ...newest.task, progress }, new Date()),
      onMove: (state) => differs(newest.task, state) && this.refresh(newest),
    });
    this.followed = { id: newest.id, stop };
  }

  drop(id) {
    this.cards.get(id)?.element.remove();
    this.cards.delete(id);
    this.remember();
    this.section.hidden = !this.list.childElementCount;
  }

  forgetAll() {
    for (const id of [...this.cards.keys()]) this.drop(id);
    fill(this.list);
    this.followNewest();
    this.section.hidden = true;
  }

  remember() {
    try {
      sessionStorage.setItem(MEMORY_KEY, JSON.stringify([...this.cards.keys()].reverse()));
    } catch {
      // no storage: the cards last as long as the page
    }
  }
}

class Card {
  constructor(seen, title, openTask) {
    this.id = seen.id;
    this.title = title;
    this.task = null;
    this.asking = false;
    this.bar = new ProgressBar();
    this.state = el("span", { class: "card-state" });
    this.when = el("span", { class: "hint card-when" });
    this.name = el("button", { type: "button", class: "card-name", onclick: () => openTask(this.id) }, title ?? "…");
    this.step = el("p", { class: "hint card-step" });
    this.outcome = el("div", { class: "card-outcome" });
    this.picture = el("div", { class: "card-picture" });
    const head = el("div", { class: "card-head" }, this.name, this.state);
    const line = el("div", { class: "card-line" }, this.step, this.when);
    this.element = el("li", { class: "card yours-card" }, this.picture, el("div", { class: "card-main" }, head, line, this.bar.element), this.outcome);
  }

  show(task, now) {
    const before = this.task;
    this.task = task;
    this.name.textContent = this.title ?? task.name;
    fill(this.state, statusMark(task));
    this.bar.set(task.progress.percent);
    this.bar.element.hidden = isEnded(task.status);
    this.bar.element.classList.toggle("resting", isWaiting(task.status));
    this.element.classList.toggle("is-running", task.status === "PROCESSING");
    this.tick(now);
    if (!before || before.status !== task.status) this.showOutcome(task);
    if (before && before.status !== task.status && isEnded(task.status)) {
      announce(`${this.title ?? task.name}: ${STATUSES[task.status].word}`);
    }
  }

  showOutcome(task) {
    const result = task.status === "COMPLETED" ? resultView(task, { brief: true }) : null;
    const described = result?.classList.contains("described");
    fill(this.outcome, outcomeView(task), result);
    const picture = described ? null : pictureOf(task);
    fill(this.picture, picture);
    this.picture.hidden = !picture;
  }

  /** Times go on while the task does. */
  tick(now) {
    if (!this.task) return;
    const { status, progress, run_at: runAt } = this.task;
    const { waited, ran } = times(this.task, now);
    setText(this.step, status === "PROCESSING" ? `${progress.percent} %${progress.step ? ` · ${progress.step}` : ""}` : waitingFor(status, runAt, now, this.task.held));
    setText(this.when, isEnded(status) ? `waited ${duration(waited)}${ran == null ? "" : `, ran ${duration(ran)}`}` : duration(isWaiting(status) ? waited : ran));
  }
}

class UploadCard {
  constructor(name) {
    this.text = el("p", { class: "hint" }, "Uploading…");
    this.element = el("li", { class: "card yours-card uploading" }, el("div", { class: "card-main" }, el("div", { class: "card-head" }, el("span", { class: "card-name" }, name)), this.text));
  }

  refuse(text) {
    this.element.classList.replace("uploading", "refused");
    const close = el("button", { type: "button", class: "quiet small", onclick: () => this.element.remove() }, "Dismiss");
    fill(this.text, icon("alert"), ` ${text} `, close);
    this.text.className = "beside-error";
    this.text.setAttribute("role", "alert");
  }

  done() {
    this.element.remove();
  }
}

/** Whether a task is not any more as it was shown. */
const differs = (task, state) => !task || task.status !== state.status || (state.attempt !== undefined && state.attempt !== task.attempt);

function waitingFor(status, runAt, now, held) {
  if (status === "DISPATCHED") return "waits in Redis";
  if (status === "QUEUED") return "waits in the database";
  if (status === "SCHEDULED") return held ? "held until submission is resumed" : runAt ? `runs ${ago(runAt, now)}` : "waits for its time";
  return "";
}

function rememberedIds() {
  try {
    return JSON.parse(sessionStorage.getItem(MEMORY_KEY) ?? "[]").filter((id) => typeof id === "string").slice(0, MOST_CARDS);
  } catch {
    return [];
  }
}

// The table of recent tasks: filtered by status, kept up to date row by row, with what one may do to each.

import * as api from "./api.js";
import { announce, el, fill, icon, setAttributes, setText, showProblem } from "./dom.js";
import { ofStatus } from "./figures.js";
import { statusMark, trackMark } from "./marks.js";
import { ago, count, duration, fullTime, isWaiting, PRIORITIES, RETRIABLE, STATUSES, times } from "./words.js";

// A phone shows one task per two lines: fewer of them make a page.
const PAGE_ROWS = matchMedia("(max-width: 760px)").matches ? 10 : 25;

export class TasksTable {
  constructor(parts, { openTask, soon, trackOf }) {
    Object.assign(this, parts, { openTask, soon, trackOf, rows: new Map(), status: null, cursor: null, asking: false });
    this.filters = this.makeFilters();
    this.older.addEventListener("click", () => this.turn(this.nextCursor));
    this.newer.addEventListener("click", () => this.turn(null));
  }

  /** Take a new overview: counts for the filter, and a fresh list if anything has changed. */
  see(snapshot, now) {
    this.now = now;
    for (const [status, parts] of this.filters) {
      const number = status ? ofStatus(snapshot, status) : Object.keys(STATUSES).reduce((all, one) => all + ofStatus(snapshot, one), 0);
      setText(parts.number, count(number));
      parts.label.classList.toggle("zero", number === 0 && status !== null);
    }
    this.seeProgress(snapshot);
    const trace = JSON.stringify([snapshot.counts, snapshot.tasks.map((task) => [task.id, task.status, task.attempt, task.priority])]);
    if (trace === this.trace) return this.tick(now);
    this.trace = trace;
    return this.load();
  }

  seeProgress(snapshot) {
    for (const brief of snapshot.tasks) {
      const row = this.rows.get(brief.id);
      if (row && brief.status === "PROCESSING" && row.task.status === "PROCESSING") row.showPercent(brief.percent);
    }
  }

  /** Ask for the list. A request that comes while one is under way is made up for afterwards. */
  async load() {
    if (this.asking) {
      this.askAgain = true;
      return;
    }
    this.asking = true;
    const wanted = { status: this.status, cursor: this.cursor, limit: PAGE_ROWS };
    try {
      const page = await api.list(wanted);
      if (wanted.status === this.status && wanted.cursor === this.cursor) this.show(page);
      showProblem(this.error, null);
    } catch (problem) {
      this.trace = null;
      if (problem.status) showProblem(this.error, problem); // a lost connection is told at the top of the page
    } finally {
      this.asking = false;
    }
    if (this.askAgain) {
      this.askAgain = false;
      this.load();
    }
  }

  show({ tasks, next_cursor: nextCursor }) {
    this.nextCursor = nextCursor;
    const present = new Set(tasks.map((task) => task.id));
    for (const [id, row] of this.rows) {
      if (present.has(id)) continue;
      row.element.remove();
      this.rows.delete(id);
    }
    let place = this.body.firstElementChild;
    for (const task of tasks) {
      const row = this.rows.get(task.id) ?? this.makeRow(task);
      row.show(task, this.now ?? new Date(), this.trackOf(task));
      if (row.element === place) place = place.nextElementSibling;
      else this.body.insertBefore(row.element, place);
    }
    this.older.hidden = !nextCursor;
    this.newer.hidden = !this.cursor;
    this.table.hidden = !tasks.length;
    this.empty.hidden = tasks.length > 0;
    if (!tasks.length) fill(this.empty, ...emptyWords(this.status));
  }

  tick(now) {
    for (const row of this.rows.values()) row.tick(now);
  }

  turn(cursor) {
    this.cursor = cursor;
    this.load();
    this.section.scrollIntoView({ block: "start" });
  }

  makeRow(task) {
    const row = new Row(task.id, {
      open: () => this.openTask(task.id),
      act: (work, said) => this.act(row, work, said),
    });
    this.rows.set(task.id, row);
    return row;
  }

  /** Do something to a task and show the outcome in its row, the refusal too. */
  async act(row, work, said) {
    try {
      await work();
      row.refuse(null);
      announce(said);
    } catch (problem) {
      row.refuse(problem);
    }
    this.load();
    this.soon();
  }

  makeFilters() {
    const entries = [null, ...Object.keys(STATUSES)].map((status) => {
      const input = el("input", { type: "radio", name: "status", value: status ?? "", checked: status === null });
      const number = el("span", { class: "chip-number" });
      const label = el("label", { class: "chip", title: STATUSES[status]?.meaning }, input, el("span", { class: "chip-face" }, STATUSES[status]?.word ?? "All", number));
      input.addEventListener("change", () => this.choose(status));
      this.filter.append(label);
      return [status, { label, number }];
    });
    return new Map(entries);
  }

  choose(status) {
    this.status = status;
    this.cursor = null;
    this.load();
  }
}

class Row {
  constructor(id, { open, act }) {
    Object.assign(this, { id, act });
    const cell = (name, label, ...children) => el("td", { class: name, "data-label": label }, ...children);
    this.status = cell("cell-status", "Status");
    this.name = el("button", { type: "button", class: "row-name", onclick: open });
    this.small = el("span", { class: "row-id mono" }, `…${id.slice(-6)}`);
    this.percent = el("span", { class: "row-percent" }, el("span", {}));
    this.problem = el("p", { class: "beside-error", role: "alert", hidden: true });
    this.priority = cell("cell-priority", "Priority");
    this.track = cell("cell-track", "Track");
    this.attempt = cell("number cell-attempt", "Attempt");
    this.waited = cell("number cell-waited", "Waited");
    this.ran = cell("number cell-ran", "Ran");
    this.created = cell("number cell-created", "Created");
    this.actions = cell("cell-actions", "");
    this.element = el("tr", {},
      this.status, cell("cell-name", "Task", this.name, this.small, this.percent, this.problem),
      this.priority, this.track, this.attempt, this.waited, this.ran, this.created, this.actions);
    this.element.addEventListener("click", (event) => {
      if (!event.target.closest("button, select, a, label") && !getSelection()?.toString()) open();
    });
  }

  show(task, now, track) {
    const before = this.task;
    this.task = task;
    setText(this.name, task.name);
    const differs = !before || ["status", "priority", "cancel_requested", "held"].some((key) => before[key] !== task[key]);
    if (differs) {
      this.showStatus(task);
      this.refuse(null);
    }
    if (differs || this.shownTrack !== track) fill(this.track, trackMark((this.shownTrack = track)));
    setText(this.attempt, task.attempt ? String(task.attempt) : "–");
    this.created.title = fullTime(task.created_at);
    this.showPercent(task.status === "PROCESSING" ? task.progress.percent : null);
    this.tick(now);
  }

  showStatus(task) {
    setAttributes(this.element, { "data-status": task.status, "data-waits": isWaiting(task.status) });
    fill(this.status, statusMark(task));
    fill(this.priority, isWaiting(task.status) ? this.priorityChoice(task) : task.priority);
    const focused = this.actions.contains(document.activeElement);
    fill(this.actions, this.actionButton(task));
    if (focused) (this.actions.querySelector("button") ?? this.name).focus();
  }

  priorityChoice(task) {
    const choice = el("select", { "aria-label": `Priority of ${task.name}` }, PRIORITIES.map((name) => el("option", { value: name, selected: name === task.priority }, name)));
    choice.addEventListener("change", () => this.act(() => api.reprioritise(this.id, choice.value), `${task.name} is ${choice.value} now`));
    return choice;
  }

  actionButton(task) {
    if (RETRIABLE.includes(task.status)) {
      return el("button", { type: "button", class: "small", onclick: () => this.act(() => api.retry(this.id), `${task.name} waits again`) }, icon("retry"), "Retry");
    }
    if (isWaiting(task.status) || (task.status === "PROCESSING" && !task.cancel_requested)) {
      return el("button", { type: "button", class: "small", onclick: () => this.act(() => api.cancel(this.id), `${task.name}: cancel asked for`) }, icon("cross"), "Cancel");
    }
    return null;
  }

  showPercent(percent) {
    this.percent.hidden = percent == null;
    this.percent.firstElementChild.style.transform = `scaleX(${(percent ?? 0) / 100})`;
  }

  refuse(problem) {
    showProblem(this.problem, problem);
  }

  tick(now) {
    const { waited, ran } = times(this.task, now);
    setText(this.waited, duration(waited));
    setText(this.ran, duration(ran));
    setText(this.created, ago(this.task.created_at, now));
  }
}

function emptyWords(status) {
  if (status) return [el("p", {}, `No task is ${STATUSES[status].word.toLowerCase()}.`)];
  return [
    el("p", { class: "empty-title" }, "Nothing has run here yet."),
    el("p", {}, "Drop a picture into “New task”, or press “Sleep for five seconds”: you will see it wait, run and end above, and it stays in this list."),
  ];
}

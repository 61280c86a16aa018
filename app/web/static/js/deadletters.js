// The dead letters: tasks that failed with no retry left, to be run again or deleted.

import { call, retry } from "./api.js";
import { announce, el, fill, icon, showProblem } from "./dom.js";
import { ofStatus } from "./figures.js";
import { confirmed } from "./question.js";
import { ago, fullTime, plural } from "./words.js";

const SHOWN = 20;
const LONGEST_MILLISECONDS = 10_000;

export class DeadLetters {
  constructor(parts) {
    Object.assign(this, parts, { number: 0, trace: null, loadedAt: 0 });
    this.retryAll.addEventListener("click", () => this.act(() => this.repeat("POST", "/admin/rq/dead-letters/retry"), "Dead letters wait again"));
    this.purgeAll.addEventListener("click", () => this.purge());
  }

  /** Take a new overview; other failed tasks than before mean a new list. */
  see(snapshot) {
    this.number = ofStatus(snapshot, "FAILED");
    const failed = snapshot.tasks.filter((task) => task.status === "FAILED").map((task) => [task.id, task.attempt]);
    const trace = JSON.stringify([this.number, failed]);
    // The overview names the newest tasks only: an older one that failed again shows after a while.
    if (trace === this.trace && Date.now() - this.loadedAt < LONGEST_MILLISECONDS) return;
    this.trace = trace;
    this.load();
  }

  async load() {
    this.loadedAt = Date.now();
    try {
      this.show(await call("GET", `/admin/rq/dead-letters?limit=${SHOWN}`));
    } catch (problem) {
      this.trace = null;
      if (problem.status) showProblem(this.error, problem);
    }
  }

  show({ tasks, next_cursor: more }) {
    fill(this.list, tasks.map((task) => this.row(task)), more && el("li", { class: "hint" }, `The newest ${SHOWN} of ${this.number} are shown; the others follow as these go.`));
    this.none.hidden = tasks.length > 0;
    this.retryAll.hidden = this.purgeAll.hidden = !tasks.length;
  }

  row(task) {
    const problem = el("p", { class: "beside-error", role: "alert", hidden: true });
    const again = el("button", { type: "button", class: "small", "aria-label": `Retry ${task.name} …${task.id.slice(-6)}`, onclick: () => this.retryOne(task, problem) }, icon("retry"), "Retry");
    return el("li", {},
      el("p", { class: "dead-name" }, el("a", { href: `/#task-${task.id}` }, task.name), el("span", { class: "hint mono" }, `…${task.id.slice(-6)}`), el("span", { class: "hint", title: fullTime(task.ended_at) }, `${task.priority} · attempt ${task.attempt} · ${ago(task.ended_at, new Date())}`)),
      el("p", { class: "task-error" }, task.error ?? "no reason was recorded"),
      el("div", { class: "buttons" }, again), problem);
  }

  async retryOne(task, place) {
    try {
      await retry(task.id);
      announce(`${task.name} waits again`);
      this.load();
    } catch (problem) {
      showProblem(place, problem);
    }
  }

  async purge() {
    const sure = await confirmed("Delete all dead letters?", `The payloads, errors and history of ${plural(this.number, "task")} would be gone for good.`, "Delete them");
    if (sure) this.act(() => this.repeat("DELETE", "/admin/rq/dead-letters"), "Dead letters were deleted");
  }

  /** The server does a bounded number at a time and says whether more are left. */
  async repeat(method, path) {
    const refused = [];
    for (let answer = { more: true }; answer.more; ) {
      answer = await call(method, path);
      refused.push(...(answer.refused ?? []));
      // Refused ones stay failed: asking on would only meet them again.
      if (refused.length) throw Object.assign(new Error(), { title: "Not all", detail: `${plural(refused.length, "task")} stayed: ${refused[0].error.detail}` });
    }
  }

  async act(work, said) {
    try {
      await work();
      showProblem(this.error, null);
      announce(said);
    } catch (problem) {
      showProblem(this.error, problem);
    }
    this.load();
  }
}

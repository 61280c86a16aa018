// One worker's place: idle, or with the wagon that it runs, its name and how far it is.

import { setAttributes, setText, svg } from "./dom.js";
import { shortCount } from "./words.js";

export class SlotView {
  constructor(plan, slot, track, openTask) {
    Object.assign(this, { plan, slot, task: null, shownId: null });
    const { x, y, width, height } = slot;
    const top = y - height / 2;
    this.title = svg("title");
    this.wagon = svg("rect", { class: "wagon", x: x + 8, y: y - 5, width: plan.narrow ? 9 : 12, height: 10, rx: 2.5 });
    this.text = svg("text", { class: "slot-text", y: y + 4 });
    this.more = svg("text", { class: "slot-more", x: x + width - 8, y: y + 4, "text-anchor": "end" });
    this.progress = svg("rect", { class: "slot-progress", x: x + 1, y: top + height - 4, width: width - 2, height: 3, rx: 1.5 });
    this.element = svg(
      "g",
      { class: "slot", onclick: () => this.task && openTask(this.task.id) },
      this.title,
      svg("rect", { class: "slot-box", x: x + 0.5, y: top + 0.5, width: width - 1, height: height - 1, rx: 8 }),
      this.progress, this.wagon, this.text, this.more,
    );
  }

  /** Show a worker with its tasks; null: no worker is there. `hidden`: workers for whom there is no slot.
   * `othersServe`: workers of the other track live, who take over when they must. The wagon has the colour of
   * the track that brought its task. */
  draw(worker, hidden, { othersServe, trackOf }) {
    this.task = worker?.tasks[0] ?? null;
    const others = Math.max(0, (worker?.tasks.length ?? 0) - 1);
    setAttributes(this.element, { class: `slot ${!worker ? "absent" : this.task ? "busy" : "idle"}` });
    setText(this.title, worker ? titleOf(worker) : "No worker of this track is alive");
    setText(this.text, this.label(worker, othersServe));
    this.text.setAttribute("x", this.slot.x + (!this.task ? 10 : this.plan.narrow ? 21 : 27));
    const tail = hidden > 0 ? `+${hidden}` : others ? `+${others}` : this.task && !this.plan.narrow ? `${this.task.percent} %` : "";
    setText(this.more, tail);
    this.wagon.setAttribute("class", `wagon ${(this.task && trackOf(this.task)) ?? "unknown"}`);
    this.showPercent(this.task);
  }

  /** The bar glides while one task goes on, and starts afresh with the next. */
  showPercent(task) {
    this.progress.style.transition = task?.id === this.shownId ? "" : "none";
    this.progress.style.transform = `scaleX(${(task?.percent ?? 0) / 100})`;
    this.shownId = task?.id;
  }

  label(worker, othersServe) {
    if (!worker) return this.plan.narrow ? "none" : othersServe ? "no worker of its own" : "no worker";
    if (!this.task) return this.plan.narrow || this.slot.width < 100 ? "idle" : `idle · ${shortCount(worker.done ?? 0)} done`;
    if (this.plan.narrow) return `${this.task.percent} %`;
    const room = Math.floor((this.slot.width - 76) / 6.1);
    const { name } = this.task;
    return name.length > room ? `${name.slice(0, Math.max(1, room - 1))}…` : name;
  }
}

function titleOf(worker) {
  const who = worker.pid ? `Worker ${worker.pid}` : "Workers without a row of their own";
  const done = worker.done == null ? "" : `, ${worker.done} done`;
  const task = worker.tasks[0];
  return task ? `${who}${done}: runs ${task.name}, ${task.percent} %${task.step ? `, ${task.step}` : ""}` : `${who}${done}: idle`;
}

// One worker's place: idle, or with the wagon that it runs, its name and how far it is.

import { setAttributes, setText, svg } from "./dom.js";
import { shortCount } from "./words.js";

// The wagon before the name and the percentage after it, in pixels.
const ROOM_FOR_OTHERS = 76;

export class SlotView {
  /** `small`: one of many, without words. */
  constructor(plan, slot, { small, openTask }) {
    Object.assign(this, { plan, slot, small, task: null, shownId: null });
    const { x, y, width, height } = slot;
    const top = y - height / 2;
    const wagonWidth = plan.narrow ? 9 : 12;
    this.title = svg("title");
    this.wagon = svg("rect", { x: small ? x + (width - wagonWidth) / 2 : x + 8, y: y - 5, width: wagonWidth, height: 10, rx: 2.5 });
    this.text = svg("text", { class: "slot-text", y: y + 4 });
    this.more = svg("text", { class: "slot-more", x: small ? x + width / 2 : x + width - 8, y: y + 4, "text-anchor": small ? "middle" : "end" });
    this.progress = svg("rect", { class: "slot-progress", x: x + 1, y: top + height - 4, width: width - 2, height: 3, rx: 1.5 });
    this.element = svg(
      "g",
      { class: "slot", onclick: () => this.task && openTask(this.task.id) },
      this.title,
      svg("rect", { class: "slot-box", x: x + 0.5, y: top + 0.5, width: width - 1, height: height - 1, rx: small ? 6 : 8 }),
      this.progress, this.wagon, this.text, this.more,
    );
  }

  /** Show a worker with its tasks; null: no worker is there. `hidden`: how many this place stands
   * for because there is no room for each, or 0.
   * `othersServe`: workers of the other track live, who take over when they must. The wagon has the colour of
   * the track that brought its task. */
  draw(worker, hidden, { othersServe, trackOf }) {
    this.task = worker?.tasks[0] ?? null;
    setAttributes(this.element, { class: `slot ${!worker ? "absent" : worker.busy ? "busy" : "idle"}` });
    setText(this.title, worker ? titleOf(worker, hidden) : "No worker of this track is alive");
    if (!this.small) this.showWords(worker, othersServe);
    else setText(this.more, hidden > 0 ? `+${hidden}` : "");
    this.wagon.setAttribute("class", `wagon ${(this.task && trackOf(this.task)) ?? "unknown"}`);
    this.wagon.style.display = this.small && hidden > 0 ? "none" : "";
    this.showPercent(this.task);
  }

  showWords(worker, othersServe) {
    const others = Math.max(0, (worker?.tasks.length ?? 0) - 1);
    setText(this.more, others ? `+${others}` : this.task && !this.plan.narrow ? `${this.task.percent} %` : "");
    this.text.setAttribute("x", this.slot.x + (!worker?.busy ? 10 : this.plan.narrow ? 21 : 27));
    setText(this.text, this.label(worker, othersServe));
  }

  /** The name, cut where it would run into the percentage. Measured once per name: the font is the visitor's. */
  fitted(name) {
    if (this.measured !== name) {
      setText(this.text, name);
      const room = this.slot.width - ROOM_FOR_OTHERS;
      const kept = Math.floor((name.length * room) / Math.max(room, this.text.getComputedTextLength()));
      Object.assign(this, { measured: name, cut: kept < name.length ? `${name.slice(0, Math.max(1, kept - 1))}…` : name });
    }
    return this.cut;
  }

  /** The bar glides while one task goes on, and starts afresh with the next. */
  showPercent(task) {
    this.progress.style.transition = task?.id === this.shownId ? "" : "none";
    this.progress.style.transform = `scaleX(${(task?.percent ?? 0) / 100})`;
    this.shownId = task?.id;
  }

  label(worker, othersServe) {
    if (!worker) return this.plan.narrow ? "none" : othersServe ? "no worker of its own" : "no worker";
    if (!this.task && worker.busy) return "busy";
    if (!this.task) return this.plan.narrow ? "idle" : `idle · ${shortCount(worker.done ?? 0)} done`;
    if (this.plan.narrow) return `${this.task.percent} %`;
    return this.fitted(this.task.name);
  }
}

function titleOf(worker, hidden) {
  if (hidden > 0) return `${hidden} more workers`;
  const who = worker.pid ? `Worker ${worker.pid}` : "Workers without a row of their own";
  const done = worker.done == null ? "" : `, ${worker.done} done`;
  const task = worker.tasks[0];
  return task ? `${who}${done}: runs ${task.name}, ${task.percent} %${task.step ? `, ${task.step}` : ""}` : `${who}${done}: ${worker.busy ? "busy" : "idle"}`;
}

// One lane: its name, its figure, and the wagons that wait in it. Head on the right, nearest the workers.

import { setAttributes, setText, svg } from "./dom.js";
import { wagonX } from "./plan.js";
import { shortCount } from "./words.js";

const LEAST_BAR_PIXELS = 6;

export class Lane {
  constructor(plan, y, track, name) {
    Object.assign(this, { plan, y, wagons: [] });
    const height = plan.narrow ? 15 : 19;
    const bed = { x: plan.lane, y: y - height / 2, width: plan.laneLength, height, rx: height / 2 };
    this.wagonHeight = plan.narrow ? 9 : 11;
    this.name = svg("text", { class: "lane-name", x: plan.label, y: y + 4 }, name);
    this.figure = svg("text", { class: "lane-figure", x: plan.figure, y: y + 4.5, "text-anchor": "end" });
    this.train = svg("g", { class: "train" });
    this.bar = svg("rect", { class: "bar", y: y - this.wagonHeight / 2, height: this.wagonHeight, rx: 3.5 });
    this.hollowBar = svg("rect", { class: "bar hollow", y: y - this.wagonHeight / 2 + 0.75, height: this.wagonHeight - 1.5, rx: 3 });
    this.signal = track === "siding" ? null : makeSignal(plan.signal, y);
    this.gate = svg("path", { class: "gate", d: `M${plan.lane - 5} ${y - 8}v16` });
    this.element = svg(
      "g",
      { class: `lane ${track === "siding" ? "siding" : ""}` },
      svg("rect", { class: "bed", ...bed }),
      svg("path", { class: "rail", d: `M${plan.lane + 6} ${y}H${plan.lane + plan.laneLength - 4}` }),
      this.name, this.figure, this.hollowBar, this.bar, this.train, this.signal, this.gate,
    );
  }

  /** Show how many wait. `scale`: how many a full lane stands for; null draws each as a wagon. */
  draw({ waiting, ticketed }, scale, obstacle, intake) {
    const solid = this.signal && ticketed !== null ? ticketed : this.isRedis() ? 0 : waiting;
    setText(this.figure, shortCount(waiting));
    setAttributes(this.figure, { class: waiting ? "lane-figure" : "lane-figure zero" });
    this.drawWagons(scale ? 0 : waiting, solid);
    this.drawBars(scale ? waiting : 0, solid, scale);
    setAttributes(this.gate, { class: intake && intake !== "open" ? "gate shut" : "gate" });
    if (this.signal) setAttributes(this.signal, { class: `signal ${obstacle ?? "open"}` });
  }

  isRedis() {
    return this.element.parentNode?.classList.contains("redis") ?? false;
  }

  drawWagons(wanted, solid) {
    const { plan } = this;
    while (this.wagons.length > wanted) this.wagons.pop().remove();
    while (this.wagons.length < wanted) {
      const x = wagonX(plan, this.wagons.length);
      const wagon = svg("rect", { class: "wagon", x: x + 0.75, y: this.y - this.wagonHeight / 2 + 0.75, width: plan.wagon - 1.5, height: this.wagonHeight - 1.5, rx: 2.5 });
      this.wagons.push(wagon);
      this.train.append(wagon);
    }
    this.wagons.forEach((wagon, index) => setAttributes(wagon, { class: index < solid ? "wagon" : "wagon hollow" }));
  }

  drawBars(waiting, solid, scale) {
    const { plan } = this;
    const most = plan.laneLength - 10;
    const length = (n) => (n ? Math.max(LEAST_BAR_PIXELS, Math.min(1, n / scale) * most) : 0);
    const right = plan.lane + plan.laneLength - 5;
    const whole = length(waiting);
    const filled = Math.min(whole, length(Math.min(solid, waiting)));
    place(this.bar, right - filled, filled);
    place(this.hollowBar, right - whole + 0.75, whole > filled ? whole - 1.5 : 0);
  }
}

function place(bar, x, width) {
  bar.style.x = `${x}px`;
  bar.style.width = `${Math.max(0, width)}px`;
  bar.style.visibility = width > 0 ? "visible" : "hidden";
}

/** A lamp at the end of the lane; its form changes too, so that it does not speak by colour alone. */
function makeSignal(x, y) {
  return svg(
    "g",
    { class: "signal open" },
    svg("circle", { cx: x, cy: y, r: 4 }),
    svg("path", { class: "stop", d: `M${x - 1.6} ${y - 2.4}v4.8M${x + 1.6} ${y - 2.4}v4.8` }),
  );
}

// The history: what waited on each track, and how many tasks ended per second, over the last minutes.
//
// The page keeps it itself, so it knows only the time that it has watched; a gap stays a gap.

import { el, fill, setAttributes, setText, svg } from "./dom.js";
import { rates, sampleOf } from "./figures.js";
import { ceiling } from "./plan.js";
import { axisCount, clockTime, count, rate } from "./words.js";

// The plot begins with one minute and widens as there is more to show.
const SPANS_SECONDS = [60, 120, 300];
const LONGEST_SECONDS = SPANS_SECONDS.at(-1);
const GAP_SECONDS = 6;
const MEMORY_KEY = "twintrack-history";
const PANEL = 64;
const BETWEEN = 30;
const LEFT = 40;
const TOP = 18;

export class HistoryPlot {
  constructor(container, readout) {
    Object.assign(this, { container, readout, samples: remembered(), cursor: null });
    this.graphic = svg("svg", { tabindex: "0", role: "img", height: TOP + PANEL * 2 + BETWEEN + 20 });
    container.append(this.graphic);
    new ResizeObserver(() => this.draw()).observe(container);
    this.graphic.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.graphic.addEventListener("pointerleave", () => this.choose(null));
    this.graphic.addEventListener("blur", () => this.choose(null));
    this.graphic.addEventListener("keydown", (event) => this.step(event));
    window.addEventListener("pagehide", () => remember(this.samples));
  }

  /** Take the figures of a new overview. */
  add(snapshot) {
    const sample = sampleOf(snapshot);
    const last = this.samples.at(-1);
    if (last && sample.at <= last.at) {
      // The server's clock went back (another server answers): its history is another one.
      if (sample.at < last.at - 2000) this.samples = [];
      else return;
    }
    this.samples.push(sample);
    while (this.samples[0].at < sample.at - LONGEST_SECONDS * 1000) this.samples.shift();
    this.draw();
  }

  draw() {
    const width = Math.floor(this.container.clientWidth);
    if (width < 1 || !this.samples.length) return;
    this.width = width;
    this.end = this.samples.at(-1).at;
    const age = (this.end - this.samples[0].at) / 1000;
    this.span = SPANS_SECONDS.find((seconds) => age <= seconds) ?? LONGEST_SECONDS;
    setAttributes(this.graphic, { width, viewBox: `0 0 ${width} ${this.graphic.getAttribute("height")}` });
    const waitingTop = ceilingOf(this.samples.map((one) => one.redis + one.database));
    const bars = this.bars();
    const endedTop = ceilingOf(bars.map((bar) => bar.good + bar.bad), 1);
    const floors = [TOP + PANEL, TOP + PANEL * 2 + BETWEEN];
    fill(
      this.graphic,
      frame(width, floors[0], "Waiting", axisCount(waitingTop), [["redis", "Redis"], ["database", "database"]]),
      areas(this.runs(), (at) => this.x(at), floors[0], waitingTop),
      frame(width, floors[1], "Ended per second", axisCount(endedTop), [["good", "completed"], ["bad", "failed"]]),
      columns(bars, floors[1], endedTop, (at) => this.x(at)),
      timeAxis(width, floors[1], this.end, this.span),
      this.mark(floors[1]),
    );
    this.tell();
  }

  x(at) {
    return LEFT + (this.width - LEFT - 2) * (1 - (this.end - at) / (this.span * 1000));
  }

  /** The samples in unbroken stretches. */
  runs() {
    const runs = [];
    this.samples.forEach((sample, index) => {
      const before = this.samples[index - 1];
      if (!before || sample.at - before.at > GAP_SECONDS * 1000) runs.push([]);
      runs.at(-1).push(sample);
    });
    return runs;
  }

  /** Rates over whole steps of time, wide enough to be seen. */
  bars() {
    const seconds = Math.max(1, Math.ceil((this.span * 4) / (this.width - LEFT)));
    const bars = [];
    for (const run of this.runs()) {
      let start = run[0];
      for (const sample of run) {
        if (sample.at - start.at < seconds * 1000 - 200) continue;
        bars.push({ from: start.at, to: sample.at, ...rates(start, sample) });
        start = sample;
      }
    }
    return bars;
  }

  point(offset) {
    const at = this.end - (1 - (offset - LEFT) / (this.width - LEFT - 2)) * this.span * 1000;
    const distances = this.samples.map((sample) => Math.abs(sample.at - at));
    this.choose(this.samples[distances.indexOf(Math.min(...distances))]?.at ?? null);
  }

  step(event) {
    const direction = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!direction) return;
    event.preventDefault();
    const index = this.samples.findIndex((sample) => sample.at === this.cursor);
    const next = index < 0 ? this.samples.length - 1 : index + direction;
    this.choose(this.samples[Math.max(0, Math.min(this.samples.length - 1, next))]?.at ?? null);
  }

  choose(at) {
    if (this.cursor === at) return;
    this.cursor = at;
    this.draw();
  }

  mark(floor) {
    if (this.cursor === null) return null;
    return svg("path", { class: "cursor", d: `M${this.x(this.cursor)} ${TOP - 4}V${floor}` });
  }

  /** The figures in words: of the chosen moment, or of now. */
  tell() {
    const index = this.cursor === null ? this.samples.length - 1 : this.samples.findIndex((one) => one.at === this.cursor);
    const sample = this.samples[index];
    if (!sample) return;
    const ended = index > 0 ? rates(this.samples[index - 1], sample) : { good: 0, bad: 0 };
    const waiting = `${count(sample.redis + sample.database)} waiting (Redis ${count(sample.redis)}, database ${count(sample.database)})`;
    const text = `${waiting} · ${rate(ended.good + ended.bad)} ended per second`;
    setText(this.readout, this.cursor === null ? text : `${clockTime(sample.at)} · ${text}`);
    setAttributes(this.graphic, { "aria-label": `History of the last minutes. ${text}. Left and right arrow keys step through it.` });
  }
}

function frame(width, floor, title, most, keys) {
  const line = (y, name) => svg("path", { class: name, d: `M${LEFT} ${y}H${width}` });
  // One run of text: it keeps its distances in whatever font the visitor has.
  const legend = keys.flatMap(([tone, word]) => [svg("tspan", { class: `key ${tone}`, dx: 14 }, "■"), svg("tspan", { class: "plot-note", dx: 4 }, word)]);
  return svg(
    "g", {},
    svg("text", { x: LEFT, y: floor - PANEL - 6 }, svg("tspan", { class: "plot-title" }, title), legend),
    svg("text", { class: "plot-note", x: LEFT - 6, y: floor - PANEL + 8, "text-anchor": "end" }, most),
    svg("text", { class: "plot-note", x: LEFT - 6, y: floor + 1, "text-anchor": "end" }, "0"),
    line(floor - PANEL, "grid"), line(floor - PANEL / 2, "grid"), line(floor, "floor"),
  );
}

/** Both tracks' waiting tasks, one on top of the other. */
function areas(runs, x, floor, most) {
  const y = (n) => (floor - (n / most) * PANEL).toFixed(1);
  return runs.flatMap((run) => {
    const edge = (value) => run.map((one) => `${x(one.at).toFixed(1)} ${y(value(one))}`);
    const total = edge((one) => one.redis + one.database);
    const lower = edge((one) => one.database);
    const ground = [`${x(run.at(-1).at).toFixed(1)} ${floor}`, `${x(run[0].at).toFixed(1)} ${floor}`];
    return [
      svg("path", { class: "area redis", d: `M${total.join("L")}L${[...lower].reverse().join("L")}Z` }),
      svg("path", { class: "area database", d: `M${lower.join("L")}L${ground.join("L")}Z` }),
      svg("path", { class: "edge redis", d: `M${total.join("L")}` }),
      svg("path", { class: "edge database", d: `M${lower.join("L")}` }),
    ];
  });
}

function columns(bars, floor, most, x) {
  const shape = (bar, low, high) => {
    const left = x(bar.from) + 0.5;
    const top = floor - (high / most) * PANEL;
    const height = ((high - low) / most) * PANEL;
    return height > 0.1 && left >= LEFT ? `M${left.toFixed(1)} ${top.toFixed(1)}h${Math.max(0.8, x(bar.to) - left - 0.5).toFixed(1)}v${height.toFixed(1)}H${left.toFixed(1)}Z` : "";
  };
  return [
    svg("path", { class: "column good", d: bars.map((bar) => shape(bar, 0, bar.good)).join("") }),
    svg("path", { class: "column bad", d: bars.map((bar) => shape(bar, bar.good, bar.good + bar.bad)).join("") }),
  ];
}

function timeAxis(width, floor, end, span) {
  const steps = width < 520 ? 2 : span === 60 ? 6 : span / 60;
  return Array.from({ length: steps + 1 }, (_, index) => {
    const back = (span * (steps - index)) / steps;
    const x = LEFT + (width - LEFT - 2) * (1 - back / span);
    const anchor = index === 0 ? "start" : back === 0 ? "end" : "middle";
    const words = back === 0 ? clockTime(end) : back % 60 ? `−${back} s` : `−${back / 60} min`;
    return svg("text", { class: "plot-note", x, y: floor + 16, "text-anchor": anchor }, words);
  });
}

const ceilingOf = (numbers, least = 4) => {
  const most = Math.max(least, ...numbers);
  return most <= 10 ? Math.ceil(most) : ceiling(most);
};

function remembered() {
  try {
    const samples = JSON.parse(sessionStorage.getItem(MEMORY_KEY) ?? "[]");
    return samples.filter((one) => typeof one.at === "number");
  } catch {
    return [];
  }
}

function remember(samples) {
  try {
    sessionStorage.setItem(MEMORY_KEY, JSON.stringify(samples));
  } catch {
    // no storage: the history starts anew with the next page
  }
}

// The drawing of both tracks. Everything in it is a figure of the last overview; a wagon that moves belongs to
// a task that was seen in one place and then in another.

import { el, fill, setAttributes, setText, svg } from "./dom.js";
import { lanesOf, obstacle, ofStatus, redisShare, slotsOf } from "./figures.js";
import { Lane } from "./lane.js";
import { ceiling, curve, downX, planFor, TRACKS } from "./plan.js";
import { SlotView } from "./slot.js";
import { count, PRIORITIES, shortCount } from "./words.js";
import { travel } from "./travellers.js";

const HEADS = { redis: "Redis", database: "Database" };

export class TracksDrawing {
  /** Draws into `container`; `openTask(id)` is called when a running task is chosen,
   * `trackOf(task)` tells the track that brought it. */
  constructor(container, { aside, legend, openTask, trackOf }) {
    Object.assign(this, { container, aside, legend, openTask, trackOf });
    this.table = el("table");
    this.scale = null;
    new ResizeObserver(() => this.snapshot && this.draw(this.snapshot)).observe(container);
  }

  /** Show a new overview. */
  draw(snapshot) {
    const before = this.snapshot;
    this.snapshot = snapshot;
    const slots = Object.fromEntries(TRACKS.map((track) => [track, slotsOf(snapshot, track)]));
    this.layOut(Math.floor(this.container.clientWidth), slots);
    const lanes = lanesOf(snapshot);
    this.rescale(snapshot, lanes);
    for (const track of TRACKS) this.drawBand(snapshot, track, lanes[track], slots[track]);
    this.drawSiding(snapshot);
    this.drawEnd(snapshot);
    this.describe(snapshot, lanes);
    if (before && before.now !== snapshot.now) travel(this.plan, this.layer, { before, after: snapshot, trackOf: this.trackOf });
  }

  /** Mark the figures as old: the server does not answer. */
  freeze(frozen) {
    this.container.classList.toggle("frozen", frozen);
  }

  layOut(width, slots) {
    const numbers = Object.fromEntries(TRACKS.map((track) => [track, slots[track].length]));
    const key = `${width}/${numbers.redis}/${numbers.database}`;
    if (key === this.key || width < 1) return;
    this.key = key;
    this.plan = planFor(width, numbers);
    const { plan } = this;
    this.layer = svg("g", { class: "travellers" });
    this.bands = Object.fromEntries(TRACKS.map((track) => [track, this.makeBand(track)]));
    this.siding = new Lane(plan, plan.sidingY, "siding", "scheduled");
    this.endView = makeEnd(plan);
    const drawing = svg(
      "svg",
      { width, height: plan.height, viewBox: `0 0 ${width} ${plan.height}`, class: plan.narrow ? "is-narrow" : null, "aria-hidden": "true" },
      this.siding.element,
      TRACKS.map((track) => this.bands[track].element),
      this.endView.element,
      this.layer,
    );
    fill(this.container, drawing, el("div", { class: "unseen" }, this.table));
  }

  makeBand(track) {
    const { plan } = this;
    const place = plan.bands[track];
    const note = svg("tspan", { class: "band-note", dx: plan.narrow ? 8 : 14 });
    const head = svg("text", { x: plan.label, y: place.top + 15 }, svg("tspan", { class: "band-head" }, HEADS[track]), note);
    const lanes = Object.fromEntries(
      PRIORITIES.map((name) => [name, new Lane(plan, place.lanes[name], track, name)]),
    );
    const slots = place.slots.map((slot) => new SlotView(plan, slot, { small: place.yard, openTask: this.openTask }));
    const rails = svg("g", { class: "rails" });
    for (const name of PRIORITIES) rails.append(svg("path", { d: curve([plan.signal + 7, place.lanes[name]], [plan.trunk, place.middle]) }));
    for (const y of place.ways) {
      rails.append(svg("path", { d: curve([plan.trunk, place.middle], [place.left, y]) }));
      rails.append(svg("path", { d: outward(plan, track, y) }));
    }
    if (track === "database") rails.append(svg("path", { class: "crossover", d: crossover(plan) }));
    const element = svg("g", { class: `band ${track}` }, rails, head, place.yard ? yardBox(plan, place) : [], Object.values(lanes).map((lane) => lane.element), slots.map((slot) => slot.element));
    return { element, note, lanes, slots };
  }

  rescale(snapshot, lanes) {
    const longest = Math.max(
      ofStatus(snapshot, "SCHEDULED"),
      ...TRACKS.flatMap((track) => Object.values(lanes[track]).map((lane) => lane.waiting)),
    );
    // A scale once taken stays while the lanes drain, so that one sees them shrink.
    if (longest <= this.plan.fit) this.scale = null;
    else if (!this.scale || longest > this.scale || longest < this.scale / 8) this.scale = ceiling(longest);
  }

  drawBand(snapshot, track, lanes, slots) {
    const band = this.bands[track];
    for (const name of PRIORITIES) band.lanes[name].draw(lanes[name], this.scale, obstacle(snapshot, track, name), snapshot.routing[name]?.intake);
    const last = band.slots.length - 1;
    const hidden = slots.length > band.slots.length ? slots.length - last : 0;
    band.slots.forEach((view, index) => view.draw(slots[index] ?? null, index === last ? hidden : 0, { othersServe: snapshot.workers.length > 0, trackOf: this.trackOf }));
    const state = bandState(snapshot, track);
    band.element.classList.toggle("away", state.away);
    setText(band.note, this.plan.narrow ? state.short : state.note);
  }

  drawSiding(snapshot) {
    this.siding.draw({ waiting: ofStatus(snapshot, "SCHEDULED"), ticketed: null }, this.scale, null, null);
  }

  drawEnd(snapshot) {
    const numbers = ["COMPLETED", "FAILED", "CANCELLED", "QUARANTINED"].map((status) => ofStatus(snapshot, status));
    setText(this.endView.total, shortCount(numbers[0]));
    setText(this.endView.failed, `${shortCount(numbers[1])} failed`);
    setText(this.endView.cancelled, `${shortCount(numbers[2])} cancelled`);
    setText(this.endView.quarantined, numbers[3] ? `${shortCount(numbers[3])} quarantined` : "");
    setAttributes(this.endView.failed, { class: numbers[1] ? "end-failed" : "end-none" });
  }

  describe(snapshot, lanes) {
    const processing = ofStatus(snapshot, "PROCESSING");
    const waiting = ofStatus(snapshot, "DISPATCHED") + ofStatus(snapshot, "QUEUED");
    setText(this.aside, `${count(waiting)} waiting · ${count(processing)} processing`);
    const scale = this.scale ? `A full lane is ${count(this.scale)} tasks.` : "One wagon is one task, in the colour of its track.";
    const hollow = PRIORITIES.some((name) => lanes.redis[name].waiting > (lanes.redis[name].ticketed ?? 0));
    setText(this.legend, hollow ? `${scale} A hollow one is safe in the database and has no ticket in Redis just now.` : scale);
    fill(this.table, ...figuresTable(snapshot, lanes));
  }
}

function yardBox(plan, { left, right, middle }) {
  const height = plan.pitch * 4 + 4;
  return svg("rect", { class: "yard", x: left + 0.5, y: middle - height / 2, width: right - left - 1, height, rx: 9 });
}

/** From the database's lanes to the workers of the Redis track, which serve both when they must. */
function crossover(plan) {
  const { left, ways } = plan.bands.redis;
  return curve([plan.trunk, plan.bands.database.middle], [left, ways.at(-1)]);
}

function outward(plan, track, y) {
  const { right } = plan.bands[track];
  if (!plan.narrow) return curve([right, y], [plan.end.x, plan.end.y]);
  const x = downX(plan, track);
  return `M${right} ${y}H${x - 6}Q${x} ${y} ${x} ${y + 6}V${plan.end.y}`;
}

function makeEnd(plan) {
  const { left, top, width, height } = plan.end;
  const line = (name, x, y) => svg("text", { class: name, x, y });
  const box = svg("rect", { class: "end-box", x: left + 0.5, y: top + 0.5, width: width - 1, height: height - 1, rx: 12 });
  const texts = plan.narrow
    ? { total: line("end-total", 14, top + 22), word: line("end-word", 14, top + 37), failed: line("end-none", width * 0.33, top + 20), cancelled: line("end-none", width * 0.58, top + 20), quarantined: line("end-failed", width * 0.33, top + 37) }
    : { total: line("end-total", left + 16, top + 38), word: line("end-word", left + 16, top + 56), failed: line("end-none", left + 16, top + 82), cancelled: line("end-none", left + 16, top + 99), quarantined: line("end-failed", left + 16, top + 116) };
  texts.word.textContent = "completed";
  return { element: svg("g", { class: "end" }, box, Object.values(texts)), ...texts };
}

function bandState(snapshot, track) {
  const share = redisShare(snapshot);
  if (track === "redis") {
    if (snapshot.redis.connected === null) return { away: true, note: "not in use: database mode", short: "not in use" };
    if (Object.values(snapshot.routing).some((rule) => rule.fallback)) return { away: true, note: "away: the database has taken over", short: "away, database took over" };
    if (!snapshot.redis.connected) return { away: true, note: "does not answer", short: "does not answer" };
  }
  const percent = share == null ? null : track === "redis" ? share : 100 - share;
  const note = percent == null ? "share of new tasks differs by priority" : `takes ${percent} % of new tasks`;
  return { away: false, note, short: percent == null ? "" : `${percent} % of new tasks` };
}

/** The same figures for people who do not see the drawing. */
function figuresTable(snapshot, lanes) {
  const row = (first, cells) => el("tr", {}, el("th", { scope: "row" }, first), cells.map((cell) => el("td", {}, cell)));
  const head = el("tr", {}, el("th", { scope: "col" }, "Waiting in"), PRIORITIES.map((name) => el("th", { scope: "col" }, name)));
  const rows = TRACKS.map((track) =>
    row(HEADS[track], PRIORITIES.map((name) => count(lanes[track][name].waiting) + (obstacle(snapshot, track, name) === "paused" ? " (paused)" : ""))),
  );
  const scheduled = row("Scheduled", PRIORITIES.map((name) => count(snapshot.counts.SCHEDULED[name])));
  const running = row("Processing", PRIORITIES.map((name) => count(snapshot.counts.PROCESSING[name])));
  return [el("caption", {}, "Tasks by track and priority"), el("thead", {}, head), el("tbody", {}, rows, scheduled, running)];
}

// The plan of the drawing: where everything lies for a given width. Figures in, figures out.
//
// Each track is a band: four lanes that join into one line, fan out to the workers, and end together with
// the other track's. Between the bands lies the siding, where scheduled tasks wait.

import { PRIORITIES } from "./words.js";

export const TRACKS = ["redis", "database"];

const ROWS = 4;
const YARD_PADDING = 4;

const WIDE = {
  label: 0, figure: 112, lane: 126, reach: 0.5, junction: 58, fan: 34, slot: 168, slotHeight: 25, head: 30,
  pitch: 29, siding: 58, wagon: 13, gap: 3, end: 138, endFan: 44, foot: 8,
};
const MEDIUM = { ...WIDE, slot: 120, end: 112, junction: 44, fan: 26, endFan: 32, reach: 0.47 };
const NARROW = {
  label: 0, figure: 90, lane: 98, reach: null, junction: 24, fan: 14, slot: 60, slotHeight: 22, head: 27,
  pitch: 25, siding: 46, wagon: 6.5, gap: 2, end: 0, endFan: 20, foot: 66,
};

/** The plan for a width in pixels and the number of worker slots per track. */
export function planFor(width, slots) {
  const m = width >= 860 ? WIDE : width >= 620 ? MEDIUM : NARROW;
  const narrow = m === NARROW;
  const pitch = m.wagon + m.gap;
  const right = width - m.end - m.endFan;
  const laneEnd = narrow ? right - m.slot - m.fan - m.junction - 14 : width * m.reach;
  const fit = Math.max(3, Math.floor((laneEnd - m.lane - 6) / pitch));
  const laneLength = fit * pitch - m.gap + 10;
  const bandHeight = m.head + m.pitch * 4;
  const tops = { redis: 0, database: bandHeight + m.siding };
  const height = bandHeight * 2 + m.siding + m.foot;
  const plan = { ...m, width, height, narrow, wagonPitch: pitch, fit, laneLength, bandHeight };
  plan.signal = m.lane + laneLength + 10;
  plan.trunk = plan.signal + 8 + m.junction;
  plan.sidingY = bandHeight + m.siding / 2 + (narrow ? 2 : 4);
  plan.end = endOf(plan, m);
  plan.bands = Object.fromEntries(TRACKS.map((track) => [track, band(plan, m, tops[track], slots[track])]));
  return plan;
}

/** Where a wagon stands in a lane: 0 is the head, nearest the workers. */
export const wagonX = (plan, index) => plan.lane + plan.laneLength - 5 - plan.wagon - index * plan.wagonPitch;

/** The smallest of 10, 20, 30, 50, 100 … that is not below n: what a full lane stands for. */
export function ceiling(n) {
  const decade = 10 ** Math.floor(Math.log10(Math.max(n, 10)));
  return [1, 2, 3, 5, 10].map((step) => step * decade).find((value) => value >= n);
}

/** An SVG path through a smooth S from one point to another. */
export function curve([x1, y1], [x2, y2]) {
  const middle = (x1 + x2) / 2;
  return `M${x1} ${y1}C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`;
}

/** Points along the way through these places, for a wagon that travels it. */
export function route(plan, places) {
  const stops = places.flatMap((place, index) => [...(index ? links(plan, places[index - 1], place) : []), pointOf(plan, place)]);
  return stops.flatMap((stop, index) => (index ? between(stops[index - 1], stop) : [stop]));
}

function band(plan, m, top, slotCount) {
  const lanes = Object.fromEntries(PRIORITIES.map((name, index) => [name, top + m.head + m.pitch * (index + 0.5)]));
  const middle = top + m.head + m.pitch * 2;
  const left = plan.trunk + m.fan;
  const right = plan.width - m.end - m.endFan;
  const yard = slotCount > ROWS;
  const slots = yard ? yardSlots(m, { left, right, middle }, slotCount) : rowSlots(m, { left, right, middle }, slotCount);
  // A yard has one way in and one way out; few workers have a line each.
  const ways = yard ? [middle] : slots.map((slot) => slot.y);
  return { top, lanes, middle, slots, yard, left, right, ways };
}

/** Up to four workers, each with room for the name of its task. */
function rowSlots(m, { left, right, middle }, slotCount) {
  const drawn = Math.max(1, slotCount);
  return Array.from({ length: drawn }, (_, row) => ({ x: left, y: middle + (row - (drawn - 1) / 2) * m.pitch, width: right - left, height: m.slotHeight }));
}

/** More workers as a grid of small places; `+n` in the last one stands for those that do not fit. */
function yardSlots(m, { left, right, middle }, slotCount) {
  const step = m.slotHeight + 3;
  const columns = Math.floor((right - left - YARD_PADDING * 2 + 3) / step);
  const drawn = Math.min(slotCount, columns * ROWS);
  const indent = left + (right - left - (columns * step - 3)) / 2;
  return Array.from({ length: drawn }, (_, index) => ({
    x: indent + (index % columns) * step,
    y: middle + (Math.floor(index / columns) - (Math.ceil(drawn / columns) - 1) / 2) * m.pitch,
    width: m.slotHeight,
    height: m.slotHeight,
  }));
}

function endOf(plan, m) {
  if (plan.narrow) return { x: plan.width - 7, y: plan.height - 46, left: 0, top: plan.height - 46, width: plan.width, height: 46 };
  const height = 128;
  return { x: plan.width - m.end, y: plan.sidingY, left: plan.width - m.end, top: plan.sidingY - height / 2, width: m.end, height };
}

function pointOf(plan, place) {
  if (place.kind === "entry") return [plan.lane - 8, plan.bands[place.track].lanes[place.priority]];
  if (place.kind === "lane") return [wagonX(plan, 0), plan.bands[place.track].lanes[place.priority]];
  if (place.kind === "siding") return [plan.lane + plan.laneLength / 2, plan.sidingY];
  if (place.kind === "slot") return [slotOf(plan, place).x + (plan.bands[place.track].yard ? plan.slotHeight / 2 : 14), slotOf(plan, place).y];
  return [plan.end.x, plan.end.y];
}

/** What lies between two places: the junction of the lanes, the way out of the workers. */
function links(plan, from, to) {
  if (from.kind === "lane" && to.kind !== "lane") {
    const { lanes, middle } = plan.bands[from.track];
    return [[plan.signal, lanes[from.priority]], [plan.trunk, middle]];
  }
  if (from.kind === "slot" && to.kind === "end") {
    const { yard, right, middle } = plan.bands[from.track];
    const y = yard ? middle : slotOf(plan, from).y;
    return plan.narrow ? [[downX(plan, from.track), y]] : [[right, y]];
  }
  return [];
}

function slotOf(plan, { track, slot }) {
  const { slots } = plan.bands[track];
  return slots[Math.min(slot, slots.length - 1)];
}

/** Where the line of a track runs down to the end on a narrow plan: beside the other's, not on it. */
export const downX = (plan, track) => plan.width - (track === "redis" ? 5 : 11);

/** A smooth S in five steps, without its first point. */
function between([x1, y1], [x2, y2]) {
  return [0.2, 0.4, 0.6, 0.8, 1].map((t) => {
    const eased = y1 === y2 ? t : t * t * (3 - 2 * t);
    return [x1 + (x2 - x1) * t, y1 + (y2 - y1) * eased];
  });
}

// Wagons on the move. A wagon travels only for a task that was seen in one place and then in another, and only
// while there are few enough to follow; a busier system is told by the figures alone.

import { svg } from "./dom.js";
import { placeOf, slotPlace } from "./figures.js";
import { route } from "./plan.js";

const TRAVEL_MILLISECONDS = 900;
const BETWEEN_STARTS_MILLISECONDS = 40;
const MOST_AT_ONCE = 16;

const calm = matchMedia("(prefers-reduced-motion: reduce)");

/** Send wagons along the ways that their tasks took between two overviews. */
export function travel(plan, layer, { before, after, trackOf }) {
  if (calm.matches || document.hidden) return;
  const journeys = journeysBetween(before, after, trackOf);
  if (journeys.length <= MOST_AT_ONCE) journeys.forEach((journey, index) => send(plan, layer, journey, index));
}

/** The ways of all tasks that moved: those that both overviews name, and new ones, which came in by the entry. */
export function journeysBetween(before, after, trackOf) {
  const known = new Map(before.tasks.map((task) => [task.id, task]));
  const newest = before.tasks.reduce((most, task) => (isLater(task.id, most) ? task.id : most), "");
  return after.tasks
    .filter((task) => known.has(task.id) || isLater(task.id, newest))
    .map((task) => journey(before, after, known.get(task.id), task, trackOf(task)))
    .filter((way) => way !== null);
}

function journey(before, after, was, task, track) {
  const to = placeOf(after, task);
  const slot = slotPlace(after, task.worker);
  if (!was) return arrival(task, to, slot, track);
  const from = placeOf(before, was);
  if (from.kind === "lane" && to.kind === "lane") return moved(from, to) ? { path: [from, to], tone: to.track } : null;
  if (from.kind === "lane" && to.kind === "slot") return { path: [from, to], tone: from.track };
  const ran = task.attempt > was.attempt;
  if (from.kind === "lane" && to.kind === "end" && ran) return { path: slot ? [from, slot, to] : [from, to], tone: from.track };
  if (from.kind === "slot" && to.kind === "end") return { path: [from, to], tone: track };
  if (from.kind === "siding" && to.kind === "lane") return { path: [from, to], tone: to.track };
  return null; // it stayed, or went back to wait: the figures say so
}

/** The way of a task that was submitted since the overview before. */
function arrival(task, to, slot, track) {
  if (!track || to.kind === "siding" || (to.kind === "end" && !task.attempt)) return null;
  const lane = { kind: "lane", track, priority: task.priority };
  const stops = to.kind === "lane" ? [] : to.kind === "slot" ? [to] : slot ? [slot, to] : [to];
  return { path: [{ ...lane, kind: "entry" }, lane, ...stops], tone: track };
}

const moved = (from, to) => from.track !== to.track || from.priority !== to.priority;

/** Ids are ascending numbers of up to 19 digits, as text. */
const isLater = (a, b) => a.length > b.length || (a.length === b.length && a > b);

function send(plan, layer, { path, tone }, index) {
  const points = route(plan, path);
  const wagon = svg("rect", { class: `wagon ${tone ?? "unknown"}`, x: -6, y: -5, width: 12, height: 10, rx: 2.5 });
  layer.append(wagon);
  const frames = points.map(([x, y]) => ({ transform: `translate(${x}px, ${y}px)` }));
  const delay = Math.min(index * BETWEEN_STARTS_MILLISECONDS, 400);
  const ride = wagon.animate(frames, { duration: TRAVEL_MILLISECONDS, delay, easing: "ease-in-out", fill: "backwards" });
  ride.finished.catch(() => null).then(() => wagon.remove());
}

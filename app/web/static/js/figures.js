// From the overview's JSON to the figures that the drawing, the plot and the notices need. No page, no state.

import { ENDED, PRIORITIES, trackOfStatus } from "./words.js";
import { TRACKS } from "./plan.js";

const WAITING_STATUS = { redis: "DISPATCHED", database: "QUEUED" };

const sum = (numbers) => Object.values(numbers ?? {}).reduce((total, n) => total + n, 0);

/** How many tasks have this status. */
export const ofStatus = (snapshot, status) => sum(snapshot.counts[status]);

/** Per track and priority: how many wait, and how many of them have a ticket in Redis (null: unknown). */
export function lanesOf(snapshot) {
  const lane = (track, priority) => {
    const waiting = snapshot.counts[WAITING_STATUS[track]]?.[priority] ?? 0;
    const tickets = track === "redis" ? (snapshot.tickets?.[priority] ?? null) : null;
    return { waiting, ticketed: tickets == null ? null : Math.min(tickets, waiting) };
  };
  return Object.fromEntries(
    TRACKS.map((track) => [track, Object.fromEntries(PRIORITIES.map((name) => [name, lane(track, name)]))]),
  );
}

/** One row of the history: what waited and what has ended by then. `at` is in milliseconds. */
export function sampleOf(snapshot) {
  return {
    at: Date.parse(snapshot.now),
    redis: ofStatus(snapshot, "DISPATCHED"),
    database: ofStatus(snapshot, "QUEUED"),
    good: ofStatus(snapshot, "COMPLETED"),
    bad: ofStatus(snapshot, "FAILED") + ofStatus(snapshot, "QUARANTINED"),
    other: ofStatus(snapshot, "CANCELLED"),
  };
}

/** Tasks ended per second between two samples, in good order and not. Purges never count as negative. */
export function rates(before, after) {
  const seconds = (after.at - before.at) / 1000;
  if (!(seconds > 0)) return { good: 0, bad: 0 };
  const per = (key) => Math.max(0, after[key] - before[key]) / seconds;
  return { good: per("good") + per("other"), bad: per("bad") };
}

/** The workers of a track as slots: each with the tasks that it runs now. Unknown holders get a slot, too.
 *
 * An overview of a busy system does not name all running tasks: then a worker's own word decides. */
export function slotsOf(snapshot, track) {
  const running = snapshot.tasks.filter((task) => task.status === "PROCESSING");
  const unnamed = ofStatus(snapshot, "PROCESSING") > running.length;
  const known = new Set(snapshot.workers.map((worker) => worker.id));
  const slots = snapshot.workers
    .filter((worker) => worker.track === track)
    .map((worker) => ({ ...worker, tasks: running.filter((task) => task.worker === worker.id) }))
    .map((slot) => ({ ...slot, busy: slot.tasks.length > 0 || (unnamed && slot.state === "busy") }));
  // A stock RQ worker has no row of its own; it can only hold tasks that came by Redis.
  const strangers = track === "redis" ? running.filter((task) => !known.has(task.worker)) : [];
  if (strangers.length) slots.push({ id: "other workers", pid: null, track, busy: true, done: null, tasks: strangers });
  return slots;
}

/** Where in the drawing a task is: a lane, the siding, a worker's slot or the end. */
export function placeOf(snapshot, task) {
  if (ENDED.includes(task.status)) return { kind: "end", status: task.status };
  if (task.status === "SCHEDULED") return { kind: "siding" };
  const track = trackOfStatus(task.status);
  if (track) return { kind: "lane", track, priority: task.priority };
  return slotPlace(snapshot, task.worker) ?? { kind: "slot", track: "redis", slot: 0 };
}

/** The slot of a worker, for a task that it runs or has just run; null if nobody knows it. */
export function slotPlace(snapshot, workerId) {
  for (const track of TRACKS) {
    const slot = slotsOf(snapshot, track).findIndex((one) => one.id === workerId);
    if (slot >= 0) return { kind: "slot", track, slot };
  }
  return null;
}

/** The share of new tasks that goes by Redis now: one number, or null if the priorities differ. */
export function redisShare(snapshot) {
  const shares = new Set(Object.values(snapshot.routing).map((rule) => (rule.fallback ? 0 : rule.redis_percent)));
  return shares.size === 1 ? [...shares][0] : null;
}

/** What keeps a priority from moving: "paused", "fallback" or null. */
export function obstacle(snapshot, track, priority) {
  const rule = snapshot.routing[priority];
  if (!rule) return null;
  if (rule.paused || rule.fenced_track === track) return "paused";
  return track === "redis" && rule.fallback ? "fallback" : null;
}

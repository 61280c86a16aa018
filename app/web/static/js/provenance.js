// Which track brought a task to its worker. The row does not say it once the task is claimed, so the page
// remembers where it saw the task wait, and works it out only where the rules leave no doubt.

import { TRACKS } from "./plan.js";
import { isWaiting, PRIORITIES, trackOfStatus } from "./words.js";

const MOST_REMEMBERED = 5000;

export class Provenance {
  constructor() {
    Object.assign(this, { tracks: new Map(), pollers: new Set(), rules: null, rulesSince: null });
  }

  /** Learn from a new overview. */
  see(snapshot) {
    const rules = JSON.stringify(PRIORITIES.map((name) => [snapshot.routing[name]?.redis_percent, snapshot.routing[name]?.fallback]));
    if (rules !== this.rules) Object.assign(this, { rules, rulesSince: new Date(snapshot.now) });
    for (const worker of snapshot.workers) if (worker.track === "database") this.pollers.add(worker.id);
    for (const task of snapshot.tasks) this.learn(task);
    while (this.tracks.size > MOST_REMEMBERED) this.tracks.delete(this.tracks.keys().next().value);
  }

  learn(task) {
    if (task.track) this.tracks.set(task.id, task.track);
    // A task that is younger than the rules has known no others.
    else if (!this.tracks.has(task.id) && new Date(task.created_at) > this.rulesSince) this.tracks.set(task.id, task.track_by_rules);
  }

  /** "redis", "database", or null where nobody can tell. A poller's tasks came by the database; a worker of
   * the Redis track may serve both. */
  of(task) {
    const waits = trackOfStatus(task.status);
    if (waits || isWaiting(task.status)) return waits;
    if (!task.attempt) return null;
    const known = this.tracks.get(task.id);
    if (TRACKS.includes(known)) return known;
    return this.pollers.has(task.worker) ? "database" : null;
  }
}

// The words and figures that the page shows, each in one place.

export const PRIORITIES = ["urgent", "high", "normal", "low"];

/** Every status: its word, its icon, its colour and what it means. */
export const STATUSES = {
  SCHEDULED: { word: "Scheduled", icon: "clock", tone: "siding", meaning: "Waits for a time, for its children or for a hold to end" },
  QUEUED: { word: "Queued", icon: "wagon", tone: "database", meaning: "Waits in the database" },
  DISPATCHED: { word: "Dispatched", icon: "wagon", tone: "redis", meaning: "Waits in Redis" },
  PROCESSING: { word: "Processing", icon: "run", tone: "ink", meaning: "A worker runs it" },
  COMPLETED: { word: "Completed", icon: "check", tone: "good", meaning: "Ended with a result" },
  FAILED: { word: "Failed", icon: "cross", tone: "bad", meaning: "No retry is left: a dead letter until somebody retries it" },
  CANCELLED: { word: "Cancelled", icon: "slash", tone: "soft", meaning: "Stopped because somebody asked" },
  QUARANTINED: { word: "Quarantined", icon: "box", tone: "bad", meaning: "A row that cannot become a task; untouched until an operator decides" },
};

export const ENDED = ["COMPLETED", "FAILED", "CANCELLED", "QUARANTINED"];
export const WAITING = ["SCHEDULED", "QUEUED", "DISPATCHED"];
export const RETRIABLE = ["FAILED", "CANCELLED", "QUARANTINED"];
export const TRACK_WORDS = { redis: "Redis", database: "database" };

export const isWaiting = (status) => WAITING.includes(status);
export const isEnded = (status) => ENDED.includes(status);

/** The track on which a waiting task waits; null for a scheduled one. */
export const trackOfStatus = (status) => ({ DISPATCHED: "redis", QUEUED: "database" })[status] ?? null;

const whole = new Intl.NumberFormat("en");

/** 12,345 */
export const count = (n) => whole.format(n);

/** 12,345 up to five digits, then 1.2M: for places that are narrow. */
export function shortCount(n) {
  if (n < 100_000) return whole.format(n);
  if (n < 1_000_000) return `${Math.floor(n / 1000)}k`;
  return `${(Math.floor(n / 100_000) / 10).toFixed(1)}M`;
}

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** 20K: for the end of an axis. */
export const axisCount = (n) => (n < 10_000 ? whole.format(n) : compact.format(n));

/** A rate per second, with one digit while it is small. */
export const rate = (n) => (n > 0 && n < 10 ? n.toFixed(1) : whole.format(Math.round(n)));

export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** How long: 12 ms, 1.4 s, 2 min 5 s, 3 h 4 min, 2 d 3 h. */
export function duration(seconds) {
  if (seconds == null || Number.isNaN(seconds)) return "–";
  if (seconds < 0.9995) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 59.95) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const total = Math.round(seconds);
  if (total < 3600) return pair(Math.floor(total / 60), "min", total % 60, "s");
  if (total < 86_400) return pair(Math.floor(total / 3600), "h", Math.floor((total % 3600) / 60), "min");
  return pair(Math.floor(total / 86_400), "d", Math.floor((total % 86_400) / 3600), "h");
}

/** "just now", "8 s ago", "in 4 s". */
export function ago(moment, now) {
  const seconds = (now - new Date(moment)) / 1000;
  if (Math.abs(seconds) < 1.5) return "just now";
  const length = duration(Math.round(Math.abs(seconds)));
  const short = length.replace(/^(\d+) (d|h|min) .*/, "$1 $2").replace(/\.0 s/, " s");
  return seconds > 0 ? `${short} ago` : `in ${short}`;
}

export const clockTime = (moment) => new Date(moment).toLocaleTimeString([], { hour12: false });

export const fullTime = (moment) =>
  new Date(moment).toLocaleString([], { dateStyle: "medium", timeStyle: "medium", hour12: false });

/** Seconds between two times of a task; an absent end counts as now. */
export function between(start, end, now) {
  if (!start) return null;
  return Math.max(0, ((end ? new Date(end) : now) - new Date(start)) / 1000);
}

/** How long a task waited before its last start, and how long that run took. Seconds, or null. */
export function times(task, now) {
  const restarted = isWaiting(task.status);
  const waited =
    task.status === "SCHEDULED"
      ? between(task.created_at, null, now)
      : between(task.waiting_since ?? task.created_at, restarted ? null : (task.started_at ?? task.ended_at), now);
  const ran = restarted || !task.started_at ? null : between(task.started_at, task.ended_at, now);
  return { waited, ran };
}

function pair(large, largeUnit, small, smallUnit) {
  return small ? `${large} ${largeUnit} ${small} ${smallUnit}` : `${large} ${largeUnit}`;
}

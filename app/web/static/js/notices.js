// What a visitor should know about the state of the system, in plain words and with what can be done.

import { el, fill, icon } from "./dom.js";
import { ofStatus } from "./figures.js";
import { copyButton } from "./result.js";
import { clockTime, count, duration, fullTime, PRIORITIES } from "./words.js";

const START_COMMAND = "python -m workers";

/** The notices for an overview, the gravest first: { key, serious, parts }. */
export function noticesOf(snapshot, { fallbackSeconds }) {
  return [
    noWorkers(snapshot),
    redisAway(snapshot, fallbackSeconds),
    intakePaused(snapshot),
    queuesPaused(snapshot),
  ].filter(Boolean);
}

/** The notice for an overview that could not be had. */
export function troubleNotice(problem, since) {
  const from = clockTime(since);
  if (problem.status === 401) return { key: "signed out", serious: true, parts: [el("b", {}, "You are signed out. "), el("a", { href: "/login?next=/" }, "Sign in"), " to go on."] };
  if (problem.status === 0) {
    return { key: "lost", serious: true, parts: [el("b", {}, "The connection to the server is lost"), ` since ${from}. What you see is from then; the page keeps trying.`] };
  }
  return { key: `trouble ${problem.status}`, serious: true, parts: [el("b", {}, `${problem.title}. `), `${problem.detail} What you see is from ${from}; the page keeps trying.`] };
}

/** Show notices; one that stays is left alone, so that it is not read aloud again each second. */
export function showNotices(place, notices) {
  const wanted = new Map(notices.map((notice) => [notice.key, notice]));
  for (const shown of [...place.children]) if (!wanted.has(shown.dataset.key)) shown.remove();
  const present = new Set([...place.children].map((shown) => shown.dataset.key));
  for (const { key, serious, parts } of wanted.values()) {
    if (present.has(key)) continue;
    place.append(el("div", { class: serious ? "notice serious" : "notice", "data-key": key }, icon("alert"), el("p", {}, parts)));
  }
}

/** The word in the page's head: how things are. */
export function showPulse(place, notices, words) {
  const state = notices.some((notice) => notice.serious) ? "pulse lost" : notices.length ? "pulse wary" : "pulse";
  place.hidden = false;
  place.className = state;
  fill(place, words);
  place.title = words;
}

function noWorkers(snapshot) {
  if (snapshot.workers.length) return null;
  const waiting = ofStatus(snapshot, "QUEUED") + ofStatus(snapshot, "DISPATCHED");
  const command = el("span", { class: "command" }, el("code", {}, START_COMMAND), copyButton(START_COMMAND, "Copy the command"));
  const who = waiting ? `${count(waiting)} ${waiting === 1 ? "task waits" : "tasks wait"} for one. ` : "";
  return { key: `no workers ${waiting ? "waiting" : ""}`, serious: waiting > 0, parts: [el("b", {}, "No worker is running. "), `${who}Start some in the project's folder: `, command] };
}

function redisAway(snapshot, fallbackSeconds) {
  const taken = PRIORITIES.filter((name) => snapshot.routing[name]?.fallback);
  const away = snapshot.redis.connected === false;
  if (taken.length) {
    const tail = away ? "Tasks go back to Redis when it answers again." : "Redis answers again; tasks go back to it in a moment.";
    return { key: `fallback ${away}`, serious: false, parts: [el("b", {}, away ? "Redis is away, the database has taken over. " : "The database still stands in for Redis. "), `Nothing is lost: every task is a row. ${tail}`] };
  }
  if (!away) return null;
  const after = fallbackSeconds ? ` Pollers of the database take over after ${duration(fallbackSeconds)}.` : " Tasks on the Redis track wait until it does: the fallback is switched off.";
  return { key: "redis away", serious: false, parts: [el("b", {}, "Redis does not answer. "), `Nothing is lost: every task is a row.${after}`] };
}

function intakePaused(snapshot) {
  const rules = Object.values(snapshot.routing).filter((rule) => rule.intake !== "open");
  if (!rules.length) return null;
  const { intake, intake_until: until, intake_reason: reason } = rules[0];
  const what = intake === "hold" ? "New tasks are accepted and held." : "New tasks are refused.";
  const when = until ? `Until ${fullTime(until)}.` : "Until somebody resumes it.";
  return { key: `intake ${intake} ${until} ${reason}`, serious: intake === "refuse", parts: [el("b", {}, `Submission is paused${reason ? `: ${reason}` : ""}. `), `${what} ${when}`] };
}

function queuesPaused(snapshot) {
  const paused = PRIORITIES.filter((name) => snapshot.routing[name]?.paused);
  if (!paused.length) return null;
  const names = paused.length === 4 ? "All queues are" : `${new Intl.ListFormat("en").format(paused)} ${paused.length === 1 ? "is" : "are"}`;
  return { key: `paused ${paused}`, serious: false, parts: [el("b", {}, `${names[0].toUpperCase()}${names.slice(1)} paused. `), "What runs goes on; what waits stays until the queue is resumed on the ", el("a", { href: "/admin/" }, "admin page"), "."] };
}

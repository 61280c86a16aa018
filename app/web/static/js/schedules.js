// The schedules page: what runs again and again, its switches, and a form for one more.

import { call } from "./api.js";
import { announce, el, fill, icon, setText, showProblem } from "./dom.js";
import { statusMark } from "./marks.js";
import { confirmed } from "./question.js";
import { ago, count, duration, fullTime, plural } from "./words.js";

const EVERY_MILLISECONDS = 2000;
const STATES = { active: ["good", "check", "Active"], paused: ["bad", "pause", "Paused"], withdrawn: ["soft", "slash", "Not in the code"] };

const byId = (id) => document.getElementById(id);
const path = (schedule) => `/api/schedules/${encodeURIComponent(schedule.name)}`;
const rows = new Map();
let timer = null;

/** One schedule: its parts are made once and told anew with each answer, so that a focus is never lost. */
class Row {
  constructor(schedule) {
    const name = schedule.name;
    this.parts = Object.fromEntries(["task", "rule", "state", "next", "last", "note"].map((key) => [key, el("div", { class: `schedule-${key}` })]));
    this.problem = el("p", { class: "beside-error", role: "alert", hidden: true });
    this.run = el("button", { type: "button", class: "small", "aria-label": `Run ${name} now`, onclick: () => this.act("POST", "/run", undefined, `${name} runs`) }, icon("run"), "Run now");
    this.switch = el("button", { type: "button", class: "small", onclick: () => this.act("PATCH", "", { enabled: !this.schedule.enabled }, `${name} is ${this.schedule.enabled ? "paused" : "active"}`) });
    this.remove = el("button", { type: "button", class: "small quiet danger", "aria-label": `Delete ${name}`, onclick: () => this.delete() }, "Delete…");
    this.element = el("li", { class: "schedule" }, el("h3", { class: "schedule-name" }, name), Object.values(this.parts), el("div", { class: "buttons" }, this.run, this.switch, this.remove), this.problem);
  }

  show(schedule, now) {
    const { task, rule, state, next, last, note } = this.parts;
    this.schedule = schedule;
    const [tone, mark, word] = STATES[schedule.state];
    setText(task, `${schedule.task} · ${schedule.priority}${schedule.user_id ? ` · for ${schedule.user_id}` : ""}`);
    once(rule, JSON.stringify([schedule.cron, schedule.interval_seconds, schedule.time_zone]), () => ruleWords(schedule));
    once(state, schedule.state, () => el("span", { class: `status ${tone}` }, icon(mark), word));
    next.title = schedule.next_run_at ? fullTime(schedule.next_run_at) : "";
    setText(next, schedule.next_run_at ? `next ${soon(schedule.next_run_at, now)}` : "no next run");
    once(last, JSON.stringify([schedule.last_task, schedule.last_run_at]), () => lastWords(schedule));
    setText(note, noteOf(schedule));
    once(this.switch, schedule.enabled, () => [icon(schedule.enabled ? "pause" : "run"), schedule.enabled ? "Pause" : "Resume"]);
    this.switch.setAttribute("aria-label", `${schedule.enabled ? "Pause" : "Resume"} ${schedule.name}`);
    this.switch.hidden = schedule.state === "withdrawn";
    this.remove.hidden = schedule.origin === "code" && schedule.state !== "withdrawn";
  }

  async act(method, verb, body, said) {
    try {
      await call(method, path(this.schedule) + verb, body);
      showProblem(this.problem, null);
      announce(said);
    } catch (problem) {
      showProblem(this.problem, problem);
    }
    load();
  }

  async delete() {
    const name = this.schedule.name;
    const sure = await confirmed(`Delete ${name}?`, "No more runs are planned. The tasks of its past runs stay.", "Delete it");
    if (sure) this.act("DELETE", "", undefined, `${name} was deleted`);
  }
}

/** Fill an element only if what it tells has changed. */
function once(element, key, make) {
  if (element.dataset.told === String(key)) return;
  element.dataset.told = String(key);
  fill(element, [make()].flat());
}

function noteOf({ skipped, skip_reason: reason }) {
  const left = skipped ? `${plural(skipped, "run")} left out so far` : "";
  return reason ? [left, `why: ${reason}`].filter(Boolean).join("; ") : left;
}

function ruleWords({ cron, interval_seconds: seconds, time_zone: zone }) {
  if (seconds !== null) return el("span", {}, `every ${duration(seconds).replace(".0 s", " s")}`);
  return [el("code", {}, cron), el("span", { class: "hint" }, ` ${zone}`)];
}

function lastWords({ last_task: task, last_run_at: planned }) {
  if (!task) return el("span", { class: "hint" }, "has not run yet");
  const mark = task.status ? statusMark({ status: task.status }) : el("span", { class: "hint" }, "deleted");
  return [el("a", { href: `/#task-${task.id}`, title: `planned for ${fullTime(planned)}` }, `last ${shortTime(planned)}`), " ", mark];
}

const shortTime = (moment) => new Date(moment).toLocaleString([], { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hour12: false });

/** "in 4 s" while it is near, with the hour when it is not. */
function soon(moment, now) {
  const seconds = (new Date(moment) - now) / 1000;
  if (seconds < 1.5) return seconds > 0 ? "in a moment" : "is due";
  return seconds < 3600 ? ago(moment, now) : `${shortTime(moment)} (${ago(moment, now)})`;
}

function show({ schedules, now }) {
  const moment = new Date(now);
  const names = new Set(schedules.map((one) => one.name));
  for (const [name, row] of rows) {
    if (names.has(name)) continue;
    row.element.remove();
    rows.delete(name);
  }
  schedules.forEach((schedule, place) => {
    if (!rows.has(schedule.name)) rows.set(schedule.name, new Row(schedule));
    const row = rows.get(schedule.name);
    if (byId("schedules").children[place] !== row.element) byId("schedules").insertBefore(row.element, byId("schedules").children[place] ?? null);
    row.show(schedule, moment);
  });
  byId("no-schedules").hidden = schedules.length > 0;
  const active = schedules.filter((one) => one.enabled).length;
  setText(byId("schedules-state"), schedules.length ? `${plural(schedules.length, "schedule")}, ${count(active)} active` : "");
}

async function load() {
  clearTimeout(timer);
  try {
    show(await call("GET", "/api/schedules"));
    fill(byId("notices"));
  } catch (problem) {
    fill(byId("notices"), el("div", { class: "notice serious" }, icon("alert"), el("p", {}, el("b", {}, problem.title ?? "No answer"), ` ${problem.detail}`)));
  }
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(load, EVERY_MILLISECONDS);
}

byId("new-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const given = Object.fromEntries(new FormData(form));
  const place = byId("new-error");
  try {
    const body = { ...given, cron: given.cron.trim() || null, interval_seconds: given.interval_seconds ? Number(given.interval_seconds) : null, payload: payloadOf(given.payload) };
    await call("POST", "/api/schedules", body);
    showProblem(place, null);
    announce(`${given.name} was made`);
    form.reset();
  } catch (problem) {
    showProblem(place, problem);
  }
  load();
});

function payloadOf(text) {
  try {
    return text.trim() ? JSON.parse(text) : null;
  } catch {
    throw Object.assign(new Error(), { title: "The payload is not valid JSON", detail: "The payload is not valid JSON." });
  }
}

document.addEventListener("visibilitychange", () => document.hidden || load());
load();

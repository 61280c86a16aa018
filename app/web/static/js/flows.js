// The flows page: recent runs, one of them as boxes by phase and as a time line, and deployments to start.

import { call, cancel } from "./api.js";
import { announce, el, fill, icon, setText, showProblem } from "./dom.js";
import { confirmed } from "./question.js";
import { ago, between, count, duration, ENDED, plural, STATUSES } from "./words.js";

const EVERY_MILLISECONDS = 1000;
const byId = (id) => document.getElementById(id);
const MOST_BOXES = Number(byId("main").dataset.boxes);
const payloads = new Map();
let timer = null;
let shown = null;

/** Fill an element only if what it tells has changed; a link in it that has the focus keeps it. */
function once(element, told, make) {
  const key = JSON.stringify(told);
  if (element.dataset.told === key) return;
  element.dataset.told = key;
  const focused = element.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  fill(element, make());
  if (focused) element.querySelector(`a[href="${focused}"]`)?.focus();
}

const sum = (tally) => Object.values(tally).reduce((total, one) => total + one, 0);
const ended = (tally) => ENDED.reduce((total, status) => total + (tally[status] ?? 0), 0);
const chosen = () => /^#run-(\d+)$/.exec(location.hash)?.[1] ?? null;

// --- the list --------------------------------------------------------------------------------------------

function showRuns(runs, now) {
  byId("no-runs").hidden = runs.length > 0;
  setText(byId("runs-state"), runs.length ? plural(runs.length, "run") : "");
  const told = runs.map((run) => [run.id, run.status, run.children, ago(run.created_at, now), run.id === chosen()]);
  once(byId("runs"), told, () => runs.map((run) => runOf(run, now)));
}

function runOf(run, now) {
  const { word, icon: name, tone } = STATUSES[run.status];
  const done = `${count(ended(run.children))} of ${plural(sum(run.children), "child", "children")} ended`;
  const failed = run.children.FAILED ? `, ${count(run.children.FAILED)} failed` : "";
  const props = { href: `#run-${run.id}`, "aria-current": run.id === chosen() ? "true" : null };
  return el(
    "li",
    {},
    el("a", props, el("b", {}, run.name), el("span", { class: `state ${tone}` }, icon(name), word), el("span", { class: "hint" }, `${done}${failed} · ${ago(run.created_at, now)}`)),
  );
}

// --- one run ---------------------------------------------------------------------------------------------

function showRun({ run, phases, children, now }) {
  const moment = new Date(now);
  const open = !ENDED.includes(run.status);
  byId("run").hidden = false;
  setText(byId("run-title"), `${run.name}, run ${run.id}`);
  setText(byId("run-state"), `${stateOf(run, children)} · ${duration(between(run.created_at, run.ended_at, moment))}`);
  byId("run-error").hidden = run.error === null;
  setText(byId("run-error"), run.error ?? "");
  setText(byId("run-figures"), figuresOf(children));
  byId("cancel").hidden = !open;
  showPhases(phases, moment);
  showLine(run, phases, moment);
  say(run);
}

function stateOf(run, children) {
  const waits = run.status === "SCHEDULED" && sum(children) > ended(children);
  return waits ? "Waits for its children" : STATUSES[run.status].word;
}

function figuresOf(children) {
  const parts = Object.keys(STATUSES).filter((status) => children[status]);
  const words = parts.map((status) => `${count(children[status])} ${STATUSES[status].word.toLowerCase()}`);
  const beyond = sum(children) > MOST_BOXES ? ` · the first ${count(MOST_BOXES)} are drawn` : "";
  return words.length ? words.join(" · ") + beyond : "It has no children yet.";
}

function showPhases(phases, now) {
  const told = phases.map((phase) => [phase.name, phase.children.map((child) => [child.id, child.status, child.failures, child.error, child.waits_for_a_place, timeOf(child, now)])]);
  once(byId("phases"), told, () => phases.map((phase) => phaseOf(phase, now)));
}

function phaseOf(phase, now) {
  const done = phase.children.filter((child) => ENDED.includes(child.status)).length;
  return el(
    "section",
    { class: "phase", "aria-label": `Phase ${phase.name}` },
    el("h3", {}, `${phase.name} `, el("span", { class: "hint" }, `${count(done)} of ${count(phase.children.length)}`)),
    el("ul", { class: "boxes" }, phase.children.map((child) => boxOf(child, now))),
  );
}

function boxOf(child, now) {
  const { word, icon: name, tone } = STATUSES[child.status];
  const state = child.waits_for_a_place ? `waits for a place of ${child.tag}` : word.toLowerCase();
  const again = child.failures ? ` · failed ${plural(child.failures, "time")}` : "";
  return el(
    "li",
    { class: `box ${tone}`, title: child.error },
    el("a", { href: `/#task-${child.id}` }, icon(name), el("b", {}, child.name)),
    el("span", { class: "hint" }, `${state} · ${timeOf(child, now)}${again}`),
    child.error && el("span", { class: "why" }, child.error),
  );
}

function timeOf(child, now) {
  const ran = between(child.started_at, child.ended_at, now);
  return duration(ran ?? between(child.created_at, child.ended_at, now));
}

/** A bar per child, from its start to its end, over the time of the whole run. */
function showLine(run, phases, now) {
  const began = new Date(run.created_at);
  const last = run.ended_at ? new Date(run.ended_at) : now;
  const whole = Math.max(0.001, (last - began) / 1000);
  const share = (moment) => Math.min(100, Math.max(0, ((new Date(moment) - began) / 10 / whole)));
  const bars = phases.flatMap((phase) => phase.children).filter((child) => child.started_at);
  const told = bars.map((child) => [child.id, child.status, share(child.started_at).toFixed(1), share(child.ended_at ?? last).toFixed(1)]);
  byId("line-title").hidden = bars.length === 0;
  once(byId("time-line"), told, () => bars.map((child) => barOf(child, share(child.started_at), share(child.ended_at ?? last), now)));
}

function barOf(child, from, to, now) {
  const bar = el("span", { class: `bar ${STATUSES[child.status].tone}` });
  bar.style.marginInlineStart = `${from}%`;
  bar.style.inlineSize = `${Math.max(0.4, to - from)}%`;
  const words = `${child.name}, ${STATUSES[child.status].word.toLowerCase()}, ${timeOf(child, now)}`;
  return el("li", { title: words }, el("span", { class: "bar-name" }, child.name), el("span", { class: "bar-track" }, bar), el("span", { class: "hint" }, timeOf(child, now)));
}

function say(run) {
  const state = `${run.id} ${run.status}`;
  if (shown !== null && shown !== state && ENDED.includes(run.status)) announce(`Run ${run.id}: ${STATUSES[run.status].word}`);
  shown = state;
}

// --- verbs -----------------------------------------------------------------------------------------------

byId("cancel").addEventListener("click", async () => {
  const id = chosen();
  if (!(await confirmed("Cancel this run?", "Its children that wait are cancelled, and those that run are asked to stop.", "Cancel the run"))) return;
  try {
    await cancel(id);
    showProblem(byId("cancel-error"), null);
    announce(`Run ${id} is cancelled`);
  } catch (problem) {
    showProblem(byId("cancel-error"), problem);
  }
  load();
});

byId("deployment").addEventListener("change", () => {
  byId("payload").value = payloads.get(byId("deployment").value);
});

byId("start").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const payload = JSON.parse(byId("payload").value || "null");
    const { id } = await call("POST", "/admin/flows/start", { deployment: byId("deployment").value, payload });
    showProblem(byId("start-error"), null);
    announce(`Run ${id} was started`);
    location.hash = `run-${id}`;
  } catch (problem) {
    showProblem(byId("start-error"), problem instanceof SyntaxError ? { detail: "The payload is no JSON." } : problem);
  }
});

async function showDeployments() {
  const { deployments } = await call("GET", "/admin/flows/deployments");
  byId("start").hidden = deployments.length === 0;
  byId("no-deployments").hidden = deployments.length > 0;
  for (const one of deployments) payloads.set(one.name, JSON.stringify(one.payload));
  fill(byId("deployment"), deployments.map((one) => el("option", { value: one.name }, one.name)));
  const first = deployments.find((one) => one.name.startsWith("main")) ?? deployments[0];
  if (!first) return;
  byId("deployment").value = first.name;
  byId("payload").value = payloads.get(first.name);
}

async function load() {
  clearTimeout(timer);
  try {
    const { runs, now } = await call("GET", "/admin/flows/runs");
    showRuns(runs, new Date(now));
    if (chosen() === null) byId("run").hidden = true;
    else showRun(await call("GET", `/admin/flows/runs/${chosen()}`));
    if (payloads.size === 0) await showDeployments();
    fill(byId("notices"));
  } catch (problem) {
    fill(byId("notices"), el("div", { class: "notice serious" }, icon("alert"), el("p", {}, el("b", {}, problem.title ?? "No answer"), ` ${problem.detail ?? ""}`)));
  }
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(load, EVERY_MILLISECONDS);
}

window.addEventListener("hashchange", load);
document.addEventListener("visibilitychange", () => document.hidden || load());
load();

// The migration page: what the recorded procedure says, each second; its verbs, and a typed word before the grave ones.

import { call } from "./api.js";
import { announce, el, fill, icon, setAttributes, setText, showProblem, svg } from "./dom.js";
import { typed } from "./question.js";
import { count, duration, fullTime, plural, PRIORITIES, rate } from "./words.js";

const EVERY_MILLISECONDS = 1000;
const WIDTH = 600;
const HEIGHT = 160;
const byId = (id) => document.getElementById(id);
const MARKS = { true: ["yes", "check", "yes"], false: ["no", "cross", "no"], null: ["open", "clock", "not yet"] };
let timer = null;

/** Fill an element only if what it tells has changed, so that a focus or a selection inside stays. */
function once(element, told, make) {
  const key = JSON.stringify(told);
  if (element.dataset.told === key) return;
  element.dataset.told = key;
  fill(element, [make()].flat());
}

function mark(passed) {
  const [tone, name, word] = MARKS[passed];
  return el("span", { class: tone }, icon(name), el("span", { class: "unseen" }, word));
}

// --- the procedure ---------------------------------------------------------------------------------------

function showProcedure(found, canStart) {
  byId("no-procedure").hidden = found !== null;
  byId("procedure").hidden = byId("proofs").hidden = found === null;
  if (found === null) return setText(byId("run-state"), "");
  const word = found.stuck ? "its process is gone" : found.state;
  setText(byId("run-state"), `Procedure ${found.id} · ${word} · plan ${found.plan}`);
  once(byId("way"), found.phases.map((phase) => [phase.name, phase.ended, phase.reached, found.state]), () => found.phases.map((phase) => stepOf(phase, found)));
  const reason = found.error ?? (found.stuck ? "The process that ran it is gone. Resume goes on where it was." : null);
  byId("stop-reason").hidden = reason === null;
  setText(byId("stop-reason"), [reason, found.state === "stopped" ? nextOf(found) : null].filter(Boolean).join(" — "));
  showVerbs(found, canStart);
  showProofs(found);
}

function stepOf(phase, found) {
  const now = phase.name === found.phase && found.open;
  const wrong = phase.gates.some((gate) => gate.passed === false);
  const name = wrong ? "wrong" : phase.ended ? "past" : now ? "now" : null;
  const said = wrong ? "stopped here" : phase.ended ? "done" : now ? found.state : "ahead";
  return el("li", { class: name, "aria-current": now ? "step" : null }, el("b", {}, phase.name), said);
}

const nextOf = (found) => found.phases.flatMap((phase) => phase.gates).find((gate) => gate.passed === false)?.fix ?? null;

function showVerbs(found, canStart) {
  const waits = found.state === "paused" || found.state === "stopped" || found.stuck;
  byId("pause").disabled = found.state !== "running" || found.stuck;
  byId("resume").disabled = !waits || (!canStart && found.state !== "paused");
  byId("abort").disabled = !found.open;
  byId("rollback").disabled = !canStart || (found.phase === "rollback" && found.state === "running" && !found.stuck);
  byId("rollback").title = canStart ? "" : "At a terminal: python scripts/migration/run_migration.py --rollback";
}

function showProofs(found) {
  once(byId("gates"), found.phases, () => found.phases.filter((phase) => phase.reached).map((phase) => [el("h3", {}, phase.name), el("ul", {}, phase.gates.map(gateOf))]).flat());
  once(byId("checklist"), found.checklist, () => found.checklist.map((line) => el("li", {}, mark(line.met), el("b", {}, line.criterion), el("p", {}, line.evidence))));
  once(byId("windows"), found.windows, () => found.windows.map(windowOf).flat());
  once(byId("reports"), found.reports, () => (found.reports.length ? found.reports.map((one) => reportOf(found, one)) : el("li", { class: "hint" }, "", "none yet")));
}

const gateOf = (gate) => el("li", {}, mark(gate.passed), el("b", {}, gate.name), gate.said && el("p", {}, gate.said));

function windowOf({ phases, budget_minutes: minutes, seconds }) {
  const over = seconds > minutes * 60;
  return [el("div", {}, el("dt", {}, phases), el("dd", { class: over ? "over" : null }, `${duration(seconds)} of ${minutes} min${over ? ": over" : ""}`))];
}

function reportOf(found, one) {
  const address = `/admin/migration/reports/${found.id}/${encodeURIComponent(one.name)}`;
  return el("li", {}, mark(one.exit_code === 0), el("a", { href: address, target: "_blank", rel: "noopener" }, one.of), el("p", {}, one.verdict));
}

// --- rows ------------------------------------------------------------------------------------------------

function showRows(transfer, now) {
  byId("rows").hidden = transfer === null;
  if (transfer === null) return;
  byId("rows").classList.toggle("back", transfer.direction === "recall");
  const goal = Math.max(transfer.planned, transfer.moved);
  setText(byId("rows-title"), transfer.direction === "recall" ? "Rows back to the database" : "Rows to Redis");
  setText(byId("rows-state"), `Transfer ${transfer.id} · ${transfer.state}${transfer.state === "running" ? ` · ${transfer.phase}` : ""}`);
  setAttributes(byId("bar"), { max: Math.max(1, goal), value: transfer.moved });
  const facts = factsOf(transfer, goal);
  once(byId("facts"), facts, () => facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  showCurve(transfer, goal, now);
}

function factsOf(transfer, goal) {
  const ahead = transfer.forecast;
  const speed = ahead ? ahead.rows_per_second : transfer.mean_rate;
  return [
    ["moved", `${count(transfer.moved)} of ${count(goal)}`],
    [ahead ? "rate" : "rate on average", speed === null ? "–" : `${rate(speed)}/s`],
    ["time left", ahead ? timeLeft(ahead) : transfer.ended_at ? "over" : "–"],
    ["quarantined", count(transfer.quarantined)],
    ["held back by", transfer.throttle_reason ?? "nothing"],
  ];
}

/** 12 s (10 s to 15 s); without an upper end where the rate may as well be zero. */
function timeLeft({ seconds, least_seconds: least, most_seconds: most }) {
  if (seconds === null) return "–";
  return `${duration(seconds)} (${duration(least)} to ${most === null ? "?" : duration(most)})`;
}

function showCurve(transfer, goal, now) {
  const { curve, started_at: start, ended_at: end } = transfer;
  const first = new Date(start).getTime();
  const last = Math.max(first + 1000, new Date(end ?? now).getTime());
  const at = (moment) => ((new Date(moment).getTime() - first) / (last - first)) * WIDTH;
  const up = (rows) => HEIGHT - (rows / Math.max(1, goal)) * (HEIGHT - 6);
  once(byId("curve"), [curve, last, goal], () => {
    const points = [[0, HEIGHT], ...curve.map(([moment, rows]) => [at(moment), up(rows)])];
    points.push([WIDTH, points.at(-1)[1]]);
    const line = points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
    return [
      svg("title", { id: "curve-title" }, `Rows moved over time: ${count(transfer.moved)} in ${duration((last - first) / 1000)}`),
      svg("polygon", { class: "under", points: `${line} ${WIDTH},${HEIGHT} 0,${HEIGHT}` }),
      svg("line", { class: "goal", x1: 0, x2: WIDTH, y1: up(goal), y2: up(goal) }),
      svg("polyline", { class: "line", points: line }),
    ];
  });
  setText(byId("curve-caption"), start ? `from ${fullTime(start)}, for ${duration((last - first) / 1000)}; the dashed line is ${plural(goal, "row")}` : "");
}

// --- tracks ----------------------------------------------------------------------------------------------

const bars = new Map(PRIORITIES.map((name) => [name, trackBar(name)]));

function trackBar(name) {
  const parts = { redis: svg("rect", { class: "bar-redis", height: 24 }), database: svg("rect", { class: "bar-database", height: 24 }) };
  const drawing = svg("svg", { viewBox: "0 0 100 24", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("rect", { class: "bar-ground", width: 100, height: 24 }), parts.redis, parts.database);
  const figures = el("dd");
  byId("tracks").append(el("dt", {}, name), el("dd", { class: "bar-cell" }, drawing), figures);
  return { ...parts, figures };
}

function showTracks(tracks, lag) {
  const most = Math.max(1, ...Object.values(tracks).map((one) => one.redis + one.database));
  for (const [name, bar] of bars) {
    const { redis, database, running } = tracks[name];
    setAttributes(bar.redis, { width: ((redis / most) * 100).toFixed(2) });
    setAttributes(bar.database, { x: ((redis / most) * 100).toFixed(2), width: ((database / most) * 100).toFixed(2) });
    setText(bar.figures, `${count(redis)} in Redis · ${count(database)} in the database · ${count(running)} run`);
  }
  setText(byId("lag"), lag === null ? "nothing waits" : `the oldest waits for ${duration(lag)}`);
}

// --- verbs -----------------------------------------------------------------------------------------------

async function act(verb, body, said) {
  try {
    await call("POST", `/admin/migration/${verb}`, body);
    showProblem(byId("verb-error"), null);
    announce(said);
  } catch (problem) {
    showProblem(byId("verb-error"), problem);
  }
  load();
}

async function grave(verb, title, text, said) {
  if (await typed(title, text, verb)) act(verb, { confirm: verb }, said);
}

byId("pause").addEventListener("click", () => act("pause", undefined, "The migration is paused"));
byId("resume").addEventListener("click", () => act("resume", undefined, "The migration goes on"));
byId("abort").addEventListener("click", () => grave("abort", "Abort the migration?", "It ends where it is. The routing stays as it is now, and waiting tasks follow it; none is lost.", "The migration was aborted"));
byId("rollback").addEventListener("click", () => grave("rollback", "Roll everything back?", "New tasks go to the database at once, and every task that waits in Redis follows. Running tasks go on.", "The rollback begins"));

async function load() {
  clearTimeout(timer);
  try {
    const { procedure, transfer, tracks, lag_seconds: lag, can_start: canStart, now } = await call("GET", "/admin/migration/state");
    showProcedure(procedure, canStart);
    showRows(transfer, now);
    showTracks(tracks, lag);
    fill(byId("notices"));
  } catch (problem) {
    fill(byId("notices"), el("div", { class: "notice serious" }, icon("alert"), el("p", {}, el("b", {}, problem.title ?? "No answer"), ` ${problem.detail}`)));
  }
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(load, EVERY_MILLISECONDS);
}

document.addEventListener("visibilitychange", () => document.hidden || load());
load();

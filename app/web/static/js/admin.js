// The admin page: queues, submission, routing and workers from the poll; dead letters when their number changes.

import { call } from "./api.js";
import { DeadLetters } from "./deadletters.js";
import { announce, el, fill, icon, setAttributes, setText, showProblem } from "./dom.js";
import { redisShare } from "./figures.js";
import { trackMark } from "./marks.js";
import { noticesOf, showNotices, showPulse, troubleNotice } from "./notices.js";
import { poll } from "./poll.js";
import { confirmed } from "./question.js";
import { ago, clockTime, count, fullTime, plural, PRIORITIES } from "./words.js";

const byId = (id) => document.getElementById(id);
const fallbackSeconds = Number(byId("main").dataset.fallbackSeconds);
const deadLetters = new DeadLetters({ list: byId("dead"), none: byId("no-dead"), error: byId("dead-error"), retryAll: byId("retry-all"), purgeAll: byId("purge-all") });
const rows = new Map(PRIORITIES.map((name) => [name, queueRow(name)]));
let shareTouched = false;

/** Do something, show a refusal beside what caused it, and look at the new state at once. */
async function act(place, work, said) {
  try {
    await work();
    showProblem(place, null);
    announce(said);
  } catch (problem) {
    showProblem(place, problem);
  }
  soon();
}

function queueRow(name) {
  const cells = Object.fromEntries(["tickets", "dispatched", "queued", "scheduled", "processing", "share"].map((key) => [key, el("td", { class: "number" })]));
  const row = { ...cells, key: el("td", { class: "mono" }), state: el("td"), switch: el("button", { type: "button", class: "small" }), paused: false };
  row.switch.addEventListener("click", () => {
    const verb = row.paused ? "resume" : "pause";
    act(byId("queues-error"), () => call("POST", `/admin/rq/queues/${name}/${verb}`), `${name}: ${verb}d`);
  });
  const clear = el("button", { type: "button", class: "small quiet danger", onclick: () => clearQueue(name, row) }, "Cancel all…");
  row.clear = clear;
  byId("queues").append(el("tr", {}, el("th", { scope: "row" }, el("span", { class: "queue-name" }, name)), row.state, el("td", {}, row.switch), Object.values(cells), row.key, el("td", {}, clear)));
  return row;
}

async function clearQueue(name, row) {
  const sure = await confirmed(`Cancel everything that waits in ${name}?`, `${plural(row.waiting, "task")} would end as cancelled, and whatever comes until you decide. Each can be retried later, one by one.`, "Cancel them");
  if (sure) act(byId("queues-error"), () => call("POST", `/admin/rq/queues/${name}/clear`), `${name} was cleared`);
}

function showQueues(snapshot) {
  for (const [name, row] of rows) {
    const of = (status) => snapshot.counts[status][name];
    const rule = snapshot.routing[name];
    setText(row.tickets, snapshot.tickets[name] == null ? "–" : count(snapshot.tickets[name]));
    for (const status of ["DISPATCHED", "QUEUED", "SCHEDULED", "PROCESSING"]) setText(row[status.toLowerCase()], count(of(status)));
    setText(row.share, `${rule.fallback ? 0 : rule.redis_percent} %`);
    row.waiting = of("DISPATCHED") + of("QUEUED") + of("SCHEDULED");
    row.clear.disabled = !row.waiting;
    showState(row, name, rule);
  }
}

function showState(row, name, rule) {
  const word = rule.paused ? "Paused" : rule.fallback ? "Fallback" : "Open";
  if (row.word === word) return;
  Object.assign(row, { word, paused: rule.paused });
  fill(row.state, el("span", { class: `status ${rule.paused ? "bad" : rule.fallback ? "soft" : "good"}` }, icon(rule.paused ? "pause" : rule.fallback ? "alert" : "check"), word));
  fill(row.switch, icon(rule.paused ? "run" : "pause"), rule.paused ? "Resume" : "Pause");
  setAttributes(row.switch, { "aria-label": `${rule.paused ? "Resume" : "Pause"} ${name}` });
  setAttributes(row.clear, { "aria-label": `Cancel all that waits in ${name}` });
}

function showSubmission(snapshot) {
  const paused = Object.values(snapshot.routing).find((rule) => rule.intake !== "open");
  const until = paused?.intake_until ? `until ${fullTime(paused.intake_until)}` : "until resumed";
  setText(byId("submission-state"), paused ? `Paused (${paused.intake}) ${until}: ${paused.intake_reason ?? ""}` : "Open");
  byId("resume").hidden = !paused;
}

function showRouting(snapshot) {
  const rules = Object.values(snapshot.routing);
  const share = redisShare(snapshot);
  const mode = share === 0 ? "Database mode" : share === 100 ? "Redis mode" : "Hybrid";
  setText(byId("routing-state"), rules.some((rule) => rule.fallback) ? "Fallback: the database has taken over" : share === null ? "Differs by priority" : `${mode}, ${share} % by Redis`);
  if (!shareTouched && share !== null && !rules.some((rule) => rule.fallback)) showPercent(share);
  for (const part of byId("routing-form").elements) part.disabled = snapshot.redis.connected === null;
}

function showPercent(percent) {
  byId("percent").value = percent;
  setText(byId("percent-shown"), `${percent} %`);
}

function showWorkers(snapshot) {
  const now = new Date(snapshot.now);
  byId("workers-table").hidden = !snapshot.workers.length;
  byId("no-workers").hidden = snapshot.workers.length > 0;
  setText(byId("workers-state"), snapshot.workers.length ? `${plural(snapshot.workers.length, "worker")}, ${snapshot.workers.filter((one) => one.state === "busy").length} busy` : "");
  const cell = (content, name = null) => el("td", { class: name }, content);
  fill(byId("workers"), snapshot.workers.map((worker) => el("tr", {},
    el("th", { scope: "row", class: "mono" }, worker.id), cell(trackMark(worker.track)), cell(worker.state), cell(worker.queues.join(", ")),
    cell(count(worker.done), "number"), cell(worker.started_at ? ago(worker.started_at, now) : "–", "number"), cell(`${Math.round(worker.idle_seconds ?? 0)} s ago`, "number"))));
}

byId("pause-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = new FormData(event.target);
  const duration = given.get("duration").trim();
  const body = { reason: given.get("reason"), mode: given.get("mode"), ...(duration && { duration }) };
  act(byId("pause-error"), () => call("POST", "/admin/maintenance/pause-task-submission", body), "Submission is paused");
});
byId("resume").addEventListener("click", () => act(byId("pause-error"), () => call("POST", "/admin/maintenance/resume-task-submission"), "Submission is open"));
byId("percent").addEventListener("input", (event) => {
  shareTouched = true;
  showPercent(event.target.value);
});
byId("routing-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const percent = Number(byId("percent").value);
  const mode = percent === 0 ? "database" : percent === 100 ? "redis" : "hybrid";
  act(byId("routing-error"), () => call("PUT", "/admin/rq/routing", { mode, redis_percent: percent }), `${percent} % by Redis`).then(() => (shareTouched = false));
});

// The real list keys, which a prefix changes; one look is enough, they stay while the server runs.
call("GET", "/admin/rq/stats").then(
  (stats) => rows.forEach((row, name) => setText(row.key, stats.queues[name].redis_key ?? "–")),
  () => rows.forEach((row) => setText(row.key, "–")),
);

const soon = poll({
  onSnapshot(snapshot) {
    const notices = noticesOf(snapshot, { fallbackSeconds });
    showNotices(byId("notices"), notices);
    showPulse(byId("pulse"), notices, plural(snapshot.workers.length, "worker"));
    showQueues(snapshot);
    showSubmission(snapshot);
    showRouting(snapshot);
    showWorkers(snapshot);
    deadLetters.see(snapshot);
  },
  onTrouble(problem, since) {
    const notice = troubleNotice(problem, since);
    showNotices(byId("notices"), [notice]);
    showPulse(byId("pulse"), [notice], `since ${clockTime(since)}`);
  },
});

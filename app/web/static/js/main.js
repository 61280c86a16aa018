// The tasks page: one poll feeds the drawing, the plot, the table, the cards and the notices.

import { DetailPanel } from "./detail.js";
import { noticesOf, showNotices, showPulse, troubleNotice } from "./notices.js";
import { HistoryPlot } from "./plot.js";
import { poll } from "./poll.js";
import { startForm } from "./start.js";
import { TasksTable } from "./tasks.js";
import { TracksDrawing } from "./tracks.js";
import { clockTime, isEnded, plural, trackOfStatus } from "./words.js";
import { Yours } from "./yours.js";

const byId = (id) => document.getElementById(id);
const page = byId("main");
const fallbackSeconds = Number(page.dataset.fallbackSeconds);
const seenTracks = new Map();
const SEEN_TRACKS_KEPT = 5000;
let latest = null;

const soon = () => ask?.();
const openTask = (id) => detail.open(id);

/** The track of a task: where it waits, or waited when this page last saw it wait; else its worker's. */
function trackOf(task) {
  return trackOfStatus(task.status) ?? task.track ?? seenTracks.get(task.id) ?? workerTrack(task) ?? null;
}

function workerTrack(task) {
  if (task.status !== "PROCESSING" && !isEnded(task.status)) return null;
  return latest?.workers.find((worker) => worker.id === task.worker)?.track;
}

function noteTracks(snapshot) {
  for (const task of snapshot.tasks) if (task.track) seenTracks.set(task.id, task.track);
  while (seenTracks.size > SEEN_TRACKS_KEPT) seenTracks.delete(seenTracks.keys().next().value);
}

const detail = new DetailPanel(byId("detail"), { soon, trackOf });
const drawing = new TracksDrawing(byId("tracks"), { aside: byId("tracks-aside"), legend: byId("tracks-legend"), openTask });
const plot = new HistoryPlot(byId("plot"), byId("plot-readout"));
const yours = new Yours({ section: byId("yours"), list: byId("yours-list"), clear: byId("yours-clear"), openTask });
const table = new TasksTable(
  { section: document.querySelector("section.tasks"), table: document.querySelector("section.tasks table"), body: byId("rows"), filter: byId("filter"), error: byId("tasks-error"), empty: byId("empty"), older: byId("older"), newer: byId("newer") },
  { openTask, soon, trackOf },
);

function onSnapshot(snapshot) {
  latest = snapshot;
  const now = new Date(snapshot.now);
  noteTracks(snapshot);
  const notices = noticesOf(snapshot, { fallbackSeconds });
  showNotices(byId("notices"), notices);
  showPulse(byId("pulse"), notices, plural(snapshot.workers.length, "worker"));
  drawing.freeze(false);
  drawing.draw(snapshot);
  plot.add(snapshot);
  table.see(snapshot, now);
  yours.see(snapshot, now);
  detail.see(snapshot);
}

function onTrouble(problem, since) {
  const notice = troubleNotice(problem, since);
  showNotices(byId("notices"), [notice]);
  showPulse(byId("pulse"), [notice], `since ${clockTime(since)}`);
  drawing.freeze(true);
}

startForm({ root: document.querySelector(".start"), yours, soon, uploadLimitBytes: Number(page.dataset.uploadLimit) });
const ask = poll({ onSnapshot, onTrouble });

const linked = /^#task-(\d+)$/.exec(location.hash);
if (linked) openTask(linked[1]);

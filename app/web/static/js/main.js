// The tasks page: one poll feeds the drawing, the plot, the table, the cards and the notices.

import { DetailPanel } from "./detail.js";
import { noticesOf, showNotices, showPulse, troubleNotice } from "./notices.js";
import { HistoryPlot } from "./plot.js";
import { poll } from "./poll.js";
import { Provenance } from "./provenance.js";
import { startForm } from "./start.js";
import { TasksTable } from "./tasks.js";
import { TracksDrawing } from "./tracks.js";
import { clockTime, plural } from "./words.js";
import { Yours } from "./yours.js";

const byId = (id) => document.getElementById(id);
const page = byId("main");
const fallbackSeconds = Number(page.dataset.fallbackSeconds);
const provenance = new Provenance();

const soon = () => ask?.();
const openTask = (id) => detail.open(id);

const trackOf = (task) => provenance.of(task);

const detail = new DetailPanel(byId("detail"), { soon, trackOf });
const drawing = new TracksDrawing(byId("tracks"), { aside: byId("tracks-aside"), legend: byId("tracks-legend"), openTask, trackOf });
const plot = new HistoryPlot(byId("plot"), byId("plot-readout"));
const yours = new Yours({ section: byId("yours"), list: byId("yours-list"), clear: byId("yours-clear"), openTask });
const table = new TasksTable(
  { section: document.querySelector("section.tasks"), table: document.querySelector("section.tasks table"), body: byId("rows"), filter: byId("filter"), error: byId("tasks-error"), empty: byId("empty"), older: byId("older"), newer: byId("newer") },
  { openTask, soon, trackOf },
);

function onSnapshot(snapshot) {
  const now = new Date(snapshot.now);
  provenance.see(snapshot);
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

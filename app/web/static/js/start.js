// Sending tasks: dropped pictures and samples, each at the chosen priority.

import * as api from "./api.js";
import { announce, showProblem } from "./dom.js";
import { plural } from "./words.js";

const UPLOADS_AT_ONCE = 3;
const MEGABYTE = 1024 * 1024;

/** Make the form live. `yours` shows what was sent; `soon` brings the next poll forward. */
export function startForm({ root, yours, soon, uploadLimitBytes }) {
  const find = (selector) => root.querySelector(selector);
  const priority = () => find('input[name="priority"]:checked').value;
  const drop = find("#drop");
  const files = find("#files");
  const problems = { drop: find("#drop-error"), sample: find("#sample-error") };
  const send = (list) => sendPictures([...list], { yours, priority: priority(), uploadLimitBytes, soon, problem: problems.drop });

  files.addEventListener("change", () => {
    send(files.files);
    files.value = ""; // so that the same picture can be chosen again
  });
  catchDrops(drop, send);
  for (const button of root.querySelectorAll(".sample")) {
    button.addEventListener("click", () => sendSample(button, { priority: priority(), times: Number(find("#times").value), yours, soon, problem: problems.sample }));
  }
}

/** Pictures may be dropped anywhere on the page: a miss would make the browser leave it. */
function catchDrops(drop, send) {
  let depth = 0;
  const holdsFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const mark = (change) => {
    depth = Math.max(0, depth + change);
    drop.classList.toggle("over", depth > 0);
  };
  document.addEventListener("dragenter", (event) => holdsFiles(event) && mark(+1));
  document.addEventListener("dragleave", (event) => holdsFiles(event) && mark(-1));
  document.addEventListener("dragover", (event) => holdsFiles(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    mark(-depth);
    send(event.dataTransfer.files);
  });
}

async function sendPictures(files, { yours, priority, uploadLimitBytes, soon, problem }) {
  showProblem(problem, null);
  if (!files.length) return showProblem(problem, { detail: "Nothing was dropped that can be read as a file." });
  const waiting = [...files];
  const next = async () => {
    for (let file = waiting.shift(); file; file = waiting.shift()) {
      await sendPicture(file, { yours, priority, uploadLimitBytes });
      soon();
    }
  };
  await Promise.all(Array.from({ length: Math.min(UPLOADS_AT_ONCE, files.length) }, next));
}

async function sendPicture(file, { yours, priority, uploadLimitBytes }) {
  const card = yours.addUpload(file.name);
  if (file.size > uploadLimitBytes) {
    return card.refuse(`This file has ${(file.size / MEGABYTE).toFixed(1)} MB; the limit is ${Math.floor(uploadLimitBytes / MEGABYTE)} MB.`);
  }
  try {
    const { upload } = await api.upload(file);
    const accepted = await api.submit("describe_image", { upload }, priority);
    card.done();
    yours.add(accepted, { title: file.name });
    announce(`${file.name} was accepted as ${priority}`);
  } catch (problem) {
    card.refuse(refusal(file, problem));
  }
}

/** The API's words about the field `file`, made a sentence about this one. */
function refusal(file, problem) {
  const aboutFile = problem.errors?.find((one) => one.field === "file");
  return aboutFile ? `${file.name} ${aboutFile.message}.` : problem.detail || problem.title;
}

async function sendSample(button, { priority, times, yours, soon, problem }) {
  const { name } = button.dataset;
  const payload = JSON.parse(button.dataset.payload);
  const title = button.querySelector(".sample-title").textContent;
  showProblem(problem, null);
  button.setAttribute("aria-busy", "true");
  try {
    if (times === 1) yours.add(await api.submit(name, payload, priority), { title });
    else await sendMany(name, payload, priority, times);
    announce(times === 1 ? `${title} was accepted` : `${plural(times, "task")} accepted`);
  } catch (caught) {
    showProblem(problem, caught);
  } finally {
    button.removeAttribute("aria-busy");
  }
  soon();
}

async function sendMany(name, payload, priority, times) {
  const { tasks } = await api.submitMany(Array.from({ length: times }, () => ({ name, payload, priority })));
  const refused = tasks.filter((task) => task.error);
  if (refused.length) throw new api.Problem({ detail: `${refused.length} of ${times} were refused: ${refused[0].error.detail}` });
}

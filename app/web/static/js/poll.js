// One request per second for the whole page; none while nobody looks.

import { overview } from "./api.js";

const EVERY_MILLISECONDS = 1000;
const LONGEST_PAUSE_MILLISECONDS = 8000;

/** Ask for the overview again and again.
 *
 * `onSnapshot(snapshot)` gets each answer, `onTrouble(problem, sinceMilliseconds)` each failure. Returns
 * `soon`, a function that brings the next request forward. */
export function poll({ onSnapshot, onTrouble }) {
  let timer = null;
  let underWay = false;
  let again = false;
  let failures = 0;
  let firstFailure = null;

  async function ask() {
    if (underWay || document.hidden) {
      again = underWay;
      return;
    }
    clearTimeout(timer);
    underWay = true;
    const answer = await overview().catch((problem) => ({ problem }));
    underWay = false;
    plan(Boolean(answer.problem));
    if (answer.problem) onTrouble(answer.problem, firstFailure);
    else onSnapshot(answer);
  }

  function plan(failed) {
    failures = failed ? failures + 1 : 0;
    firstFailure = failed ? (firstFailure ?? Date.now()) : null;
    const pause = failures ? Math.min(EVERY_MILLISECONDS * 2 ** (failures - 1), LONGEST_PAUSE_MILLISECONDS) : EVERY_MILLISECONDS;
    clearTimeout(timer);
    if (!document.hidden) timer = setTimeout(ask, again ? 0 : pause);
    again = false;
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) clearTimeout(timer);
    else ask();
  });
  window.addEventListener("online", ask);
  ask();
  return ask;
}

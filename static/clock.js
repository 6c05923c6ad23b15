/** Polls GET /time while the page is visible, and reports when the time differs. */

import { call, Failure, onAnswer } from "./api.js";

const INTERVAL = 5_000; // milliseconds
let lastTime; // undefined when everything has to be loaded again
let isDue = false;
let endPause = () => {};

onAnswer(({ failure }) => {
  if (failure?.isTemporary) lastTime = undefined; // the page may lack what could not be loaded
});

/** Poll at once, after an action or when the user is back. */
export function pollNow() {
  isDue = true;
  endPause();
}

/** Poll at once, and load everything again even if the time is the same. */
export function reload() {
  lastTime = undefined;
  pollNow();
}

export async function startPolling(onChange) {
  document.addEventListener("visibilitychange", pollNow);
  addEventListener("online", pollNow);
  for (;;) {
    isDue = false;
    try {
      if (!document.hidden) {
        const { last_time } = await call("/time", undefined, { isAutomatic: true });
        const differs = last_time !== lastTime;
        lastTime = last_time;
        if (differs) await onChange();
      }
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      if (error.error === "login_required") return; // this page cannot log in
    }
    if (!isDue) await pause();
  }
}

function pause() {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, INTERVAL);
    endPause = () => {
      clearTimeout(timer);
      resolve();
    };
  });
}

/** Asks GET /time again and again while somebody looks, and says when it differs. */

import { call, Failed, onAnswer } from "./api.js";

const EVERY = 3_000; // milliseconds
let seen; // the time that what is shown is of
let asks = false;
let wakeUp = () => {};

onAnswer(({ failure }) => {
  if (failure?.passing) seen = undefined; // something is not shown that could be
});

/** Look again now: something was done here, or somebody has come back. */
export function wake() {
  asks = true;
  wakeUp();
}

/** The same, and whether the time differs or not. */
export function renew() {
  seen = undefined;
  wake();
}

/** Call `changed` whenever what is shown is of another time, or was not all to be had. */
export async function follow(changed) {
  document.addEventListener("visibilitychange", wake);
  addEventListener("online", wake);
  for (;;) {
    asks = false;
    try {
      if (!document.hidden) {
        const { last_time } = await call("/time", undefined, { automatic: true });
        const differs = last_time !== seen;
        seen = last_time;
        if (differs) await changed();
      }
    } catch (error) {
      if (!(error instanceof Failed)) throw error;
      if (error.error === "login_required") return; // there is nothing to be followed
    }
    if (!asks) await pause();
  }
}

function pause() {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, EVERY);
    wakeUp = () => {
      clearTimeout(timer);
      resolve();
    };
  });
}

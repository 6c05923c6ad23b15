/** Asks GET /time again and again while somebody looks, and says when it differs. */

import { call, Failed } from "./api.js";

const EVERY = 3_000; // milliseconds
let asks = false;
let wakeUp = () => {};

/** Look again now: something was done here, or somebody has come back. */
export function wake() {
  asks = true;
  wakeUp();
}

/** Call `changed` whenever the time differs from that of the last call, or the server is back. */
export async function follow(changed) {
  document.addEventListener("visibilitychange", wake);
  addEventListener("online", wake);
  let seen;
  for (;;) {
    asks = false;
    try {
      if (!document.hidden) {
        const { last_time } = await call("/time", undefined, { automatic: true });
        if (last_time !== seen) await changed();
        seen = last_time;
      }
    } catch (error) {
      if (!(error instanceof Failed)) throw error;
      if (error.error === "login_required") return; // there is nothing to be followed
      seen = undefined;
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

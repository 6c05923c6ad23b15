/** Calls the documented endpoints, and tells who listens what was asked and answered. */

const PATIENCE = 15_000; // milliseconds
const listeners = [];

/** An answer with response_code 0, or none at all; its message can be shown as it is. */
export class Failed extends Error {
  constructor(status, { error, detail, field }) {
    super(detail);
    this.error = error;
    this.field = field;
    // The same may do later: whatever does not follow from what was asked.
    this.passing = error === "unreachable" || status >= 500 || [401, 429].includes(status);
  }
}

export function onAnswer(listener) {
  listeners.push(listener);
}

/** POST the fields to an endpoint, or GET it where there are none. */
export async function call(url, fields, { automatic = false } = {}) {
  const asked = { method: fields ? "POST" : "GET", url, fields, automatic };
  const { status, answer } = await exchanged(asked);
  const failure = answer.response_code === 1 ? undefined : new Failed(status, answer);
  const at = new Date();
  for (const listener of listeners) listener({ ...asked, status, answer, failure, at });
  if (failure) throw failure;
  return answer;
}

async function exchanged({ method, url, fields }) {
  let status = 0;
  try {
    const response = await fetch(url, {
      method,
      headers: fields && { "Content-Type": "application/json" },
      body: fields && JSON.stringify(fields),
      signal: AbortSignal.timeout(PATIENCE),
    });
    status = response.status;
    const answer = await response.json();
    if (answer?.response_code !== undefined) return { status, answer };
  } catch {
    // No answer, or none in JSON.
  }
  const detail = status ? `服务器的回答读不懂（${status}）` : "连不上服务器，请检查网络";
  return { status, answer: { error: "unreachable", detail } };
}

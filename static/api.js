/** Calls the endpoints of the API, and passes each request and its answer to the listeners. */

const TIMEOUT = 15_000; // milliseconds
const listeners = [];

/** No answer, or one with response_code 0. Users can be shown the message. */
export class Failure extends Error {
  constructor(status, { error, detail, field }) {
    super(detail);
    this.error = error;
    this.field = field;
    // The same request may succeed later.
    this.isTemporary = error === "unreachable" || status >= 500 || [401, 429].includes(status);
  }
}

export function onAnswer(listener) {
  listeners.push(listener);
}

/** POST the fields to an endpoint, or GET it without fields. */
export async function call(url, fields, { isAutomatic = false } = {}) {
  const request = { method: fields ? "POST" : "GET", url, fields };
  const { status, answer } = await send(request);
  const failure = answer.response_code === 1 ? undefined : new Failure(status, answer);
  const exchange = { ...request, isAutomatic, status, answer, failure, at: new Date() };
  for (const listener of listeners) listener(exchange);
  if (failure) throw failure;
  return answer;
}

const unfinished = new Map(); // the request_id of each request that has failed so far

/** Call what must not be done twice. Without an answer it is sent once more. */
export async function callOnce(url, fields) {
  const content = JSON.stringify([url, fields]);
  const request = { request_id: unfinished.get(content) ?? newRequestId(), ...fields };
  unfinished.set(content, request.request_id);
  const answer = await call(url, request).catch((error) => {
    if (error.error !== "unreachable") throw error;
    return call(url, request);
  });
  unfinished.delete(content);
  return answer;
}

export function newRequestId() {
  return crypto.getRandomValues(new Uint32Array(4)).join("-");
}

async function send({ method, url, fields }) {
  let status = 0;
  const controller = new AbortController();
  setTimeout(() => controller.abort(), TIMEOUT);
  try {
    const response = await fetch(url, {
      method,
      headers: fields && { "Content-Type": "application/json" },
      body: fields && JSON.stringify(fields),
      signal: controller.signal,
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

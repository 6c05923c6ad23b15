/** The panel that shows what was asked of the API and what it answered. */

import { byId, fill, make } from "./dom.js";

const KEPT = 50;
let done = [];
const polled = new Map();
let number = 0;

export function note({ automatic, ...exchange }) {
  const at = exchange.at.toLocaleTimeString("zh-CN");
  const entry = { ...exchange, at, number: ++number, times: 1 };
  if (automatic) {
    const before = polled.get(entry.url);
    polled.set(entry.url, { ...entry, times: (before?.times ?? 0) + 1 });
  } else {
    done = [entry, ...done].slice(0, KEPT);
  }
  show();
}

export function clear() {
  done = [];
  polled.clear();
  show();
}

function show() {
  fill(byId("asked"), done, (entry) => entry.number, draw);
  fill(byId("polled"), [...polled.values()], (entry) => entry.url, draw);
  byId("nothing-asked").hidden = done.length > 0;
  const times = [...polled.values()].reduce((sum, entry) => sum + entry.times, 0);
  byId("polled-times").textContent = times;
}

function draw({ method, url, fields, status, answer, times, at }, li) {
  const well = answer.response_code === 1;
  const details = li.firstElementChild ?? li.appendChild(make("details", {}, make("summary")));
  details.firstElementChild.replaceChildren(
    make("span", { className: "method" }, method),
    make("code", {}, url),
    make("span", { className: "times" }, times > 1 ? `×${times}` : ""),
    make("span", { className: well ? "status" : "status bad" }, status || "无回答"),
    make("time", {}, at),
  );
  details.ontoggle = () => details.open && tell(details, fields, answer);
  details.ontoggle();
}

function tell(details, fields, answer) {
  const exchange = JSON.stringify([fields, answer]);
  if (details.exchange === exchange) return; // it may be being read, or a part of it selected
  details.exchange = exchange;
  const body = make("div", {}, make("h4", {}, "回答"), json(answer, "回答的内容"));
  if (fields) body.prepend(make("h4", {}, "请求"), json(fields, "请求的内容"));
  details.replaceChildren(details.firstElementChild, body);
}

function json(value, name) {
  const lines = JSON.stringify(value, null, 2);
  return make("pre", { tabIndex: 0, role: "region", "aria-label": name }, lines);
}

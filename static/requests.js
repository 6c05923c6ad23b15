/** The panel of requests and answers. */

import { byId, fill, make } from "./dom.js";

const EXCHANGES_AT_MOST = 50;
let userExchanges = [];
const polls = new Map(); // url: the last automatic exchange, and how many there were
let number = 0;

export function add({ isAutomatic, ...exchange }) {
  const at = exchange.at.toLocaleTimeString("zh-CN");
  const entry = { ...exchange, at, number: ++number, times: 1 };
  if (isAutomatic) {
    const times = (polls.get(entry.url)?.times ?? 0) + 1;
    polls.set(entry.url, { ...entry, times });
  } else {
    userExchanges = [entry, ...userExchanges].slice(0, EXCHANGES_AT_MOST);
  }
  show();
}

export function clear() {
  userExchanges = [];
  polls.clear();
  show();
}

function show() {
  fill(byId("user-exchanges"), userExchanges, (entry) => entry.number, draw);
  fill(byId("polls"), [...polls.values()], (entry) => entry.url, draw);
  byId("no-exchanges").hidden = userExchanges.length > 0;
  const total = [...polls.values()].reduce((sum, entry) => sum + entry.times, 0);
  byId("polls-count").textContent = total;
}

function draw({ method, url, fields, status, answer, times, at }, li) {
  const isNew = answer.error === "user_not_found"; // a user without a profile, which is no fault
  const kind = answer.response_code === 1 ? "done" : isNew ? "" : "bad";
  const details = li.firstElementChild ?? li.appendChild(make("details", {}, make("summary")));
  details.firstElementChild.replaceChildren(
    make("span", { className: "method" }, method),
    make("code", {}, url),
    make("span", { className: "times" }, times > 1 ? `×${times}` : ""),
    make("span", { className: `status ${kind}` }, status || "无回答"),
    make("time", {}, at),
  );
  details.ontoggle = () => details.open && drawBody(details, fields, answer);
  details.ontoggle();
}

function drawBody(details, fields, answer) {
  const content = JSON.stringify([fields, answer]);
  if (details.content === content) return; // the user may have selected a part of it
  details.content = content;
  const body = make("div", {}, make("h4", {}, "回答"), json(answer, "回答的内容"));
  if (fields) body.prepend(make("h4", {}, "请求"), json(fields, "请求的内容"));
  details.replaceChildren(details.firstElementChild, body);
}

function json(value, name) {
  const text = JSON.stringify(value, null, 2);
  return make("pre", { tabIndex: 0, role: "region", "aria-label": name }, text);
}

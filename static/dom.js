/** Makes and fills elements; whatever is written by somebody goes in as text. */

import { Failed } from "./api.js";

/** An element with properties (those with a dash, and role, are attributes) and contents. */
export function make(tag, properties = {}, ...contents) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...contents);
  return element;
}

/** A text that somebody wrote: in its own direction, whatever stands around it. */
export function written(text, tag = "span", properties = {}) {
  return make(tag, { dir: "auto", ...properties }, text);
}

/**
 * Let a list show these items, one <li> each. `draw(item, li)` fills it, and is called only for
 * what differs, and nothing is moved that can stay: focus and scrolling are left alone.
 */
export function fill(list, items, key, draw) {
  const there = new Map([...list.children].map((each) => [each.dataset.key, each]));
  const wanted = items.map((item) => {
    const li = there.get(String(key(item))) ?? make("li");
    li.dataset.key = key(item);
    const shown = JSON.stringify(item);
    if (li.shown !== shown) draw(item, li);
    li.shown = shown;
    return li;
  });
  for (const li of there.values()) if (!wanted.includes(li)) li.remove();
  wanted.forEach((li, place) => {
    if (list.children[place] !== li) list.insertBefore(li, list.children[place] ?? null);
  });
}

/** The square with which an openid is known again: its first character on a colour of its own. */
export function avatar(openid) {
  let sum = 0;
  for (const character of openid) sum = Math.imul(sum ^ character.codePointAt(0), 16777619);
  const [first] = openid;
  return make("span", { className: `avatar hue${(sum >>> 16) % 8}`, "aria-hidden": "true" }, first);
}

export function loading() {
  return make("p", { className: "loading" }, "正在加载…");
}

export function nothing(text, ...more) {
  return make("div", { className: "nothing" }, make("p", {}, text), ...more);
}

/** Why something cannot be shown, and a button to try again. */
export function problem(error, tryAgain) {
  const button = make("button", { type: "button", className: "small" }, "再试一次");
  button.addEventListener("click", tryAgain);
  return nothing(error.message, button);
}

/** Tell a link that leads to what is shown. */
export function markCurrent(link) {
  if (link.hash === (location.hash || "#/discover")) link.setAttribute("aria-current", "page");
  else link.removeAttribute("aria-current");
}

export function byId(id) {
  return document.getElementById(id);
}

let toastTimer;

/** Say something in passing; what went wrong a screen reader says at once. */
export function say(text, { wrong = false } = {}) {
  const [place, other] = wrong ? ["wrong", "done"] : ["done", "wrong"];
  clearTimeout(toastTimer);
  byId(other).textContent = "";
  byId(place).textContent = text;
  toastTimer = setTimeout(() => byId(place).replaceChildren(), wrong ? 6_000 : 2_500);
}

/** Do something with the API, and say why if it cannot be done. */
export async function attempt(act) {
  try {
    await act();
  } catch (error) {
    if (!(error instanceof Failed)) throw error;
    say(error.message, { wrong: true });
  }
}

/** Whether the user agrees to what cannot be taken back. */
export function agreed(question, what) {
  const dialog = byId("agree");
  dialog.returnValue = "";
  byId("agree-question").textContent = question;
  byId("agree-yes").textContent = what;
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

/** Let a form do something once at a time, and show beside it why that failed. */
export function onSubmit(form, act) {
  const problem = form.querySelector("[role=alert]");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (form.busy) return;
    form.busy = true;
    problem.textContent = "";
    for (const field of form.elements) field.removeAttribute("aria-invalid");
    try {
      await act(form.elements);
    } catch (error) {
      if (!(error instanceof Failed)) throw error;
      problem.textContent = error.message;
      const field = form.querySelector(`[name="${error.field}"]`);
      field?.setAttribute("aria-invalid", "true");
      field?.focus();
    } finally {
      form.busy = false;
    }
  });
}

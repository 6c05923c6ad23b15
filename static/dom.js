/** Makes and fills elements. Texts of users are inserted as text, never as HTML. */

import { Failure } from "./api.js";

/** An element. Properties with a dash, and role, are set as attributes. */
export function make(tag, properties = {}, ...contents) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...contents.flat(2));
  return element;
}

/** A text by a user, in its own direction, right to left for example. */
export function userText(text, tag = "span", properties = {}) {
  return make(tag, { dir: "auto", ...properties }, text);
}

// Of http or https, without punctuation at its end, which belongs to the sentence.
const WEB_ADDRESS = /\b(https?:\/\/(?=\w)[\w\-.~:/?#[\]@!$&'()*+,;=%]*[\w\-~/#&=%])/i;

/** A text by a user, with web addresses as links. */
export function linkedText(text, tag, properties) {
  const parts = text.split(WEB_ADDRESS); // every second one is an address
  const contents = parts.map((part, index) =>
    index % 2 ? make("a", { href: part, rel: "noreferrer", target: "_blank" }, part) : part,
  );
  return userText(contents, tag, properties);
}

/**
 * Show items in a list, one <li> each. `draw(item, li)` is called only for items that are new or
 * differ, and elements are moved only if they must, so focus and scrolling are kept.
 */
export function fill(list, items, key, draw) {
  const existing = new Map([...list.children].map((li) => [li.dataset.key, li]));
  const lines = items.map((item) => {
    const li = existing.get(String(key(item))) ?? make("li");
    li.dataset.key = key(item);
    const content = JSON.stringify(item);
    if (li.content !== content) draw(item, li);
    li.content = content;
    return li;
  });
  for (const li of existing.values()) if (!lines.includes(li)) li.remove();
  lines.forEach((li, index) => {
    if (list.children[index] !== li) list.insertBefore(li, list.children[index] ?? null);
  });
}

/**
 * A user's nickname, or the end of the openid: those of WeChat begin alike. Messages of users who
 * left for good have an empty openid.
 */
export function nameOf(openid, nicknames) {
  if (!openid) return "已注销";
  return nicknames.get(openid) ?? openid.replace(/^.+(?=.{8}$)/u, "…");
}

/** A square with the first character of a name, in a colour that depends on the openid. */
export function avatar(openid, name = openid) {
  let sum = 0;
  for (const character of openid) sum = Math.imul(sum ^ character.codePointAt(0), 16777619);
  const [first] = openid ? name : "?";
  return make("span", { className: `avatar hue${(sum >>> 16) % 8}`, "aria-hidden": "true" }, first);
}

export function loadingNote() {
  return make("p", { className: "loading" }, "正在加载…");
}

export function emptyNote(text, ...more) {
  return make("div", { className: "empty" }, make("p", {}, text), ...more);
}

export function failureNote(failure, retry) {
  const button = make("button", { type: "button", className: "small" }, "再试一次");
  button.addEventListener("click", retry);
  return emptyNote(failure.message, button);
}

export function isVisible(id) {
  return byId(id).getClientRects().length > 0;
}

/** Mark a link that leads to the current view. */
export function markCurrent(link) {
  if (link.hash === (location.hash || "#/discover")) link.setAttribute("aria-current", "page");
  else link.removeAttribute("aria-current");
}

export function byId(id) {
  return document.getElementById(id);
}

let toastTimer;

/** Show a short message for some seconds. A screen reader reads an error at once. */
export function showToast(text, { isError = false } = {}) {
  const [toast, other] = isError ? ["error-toast", "toast"] : ["toast", "error-toast"];
  clearTimeout(toastTimer);
  byId(other).textContent = "";
  byId(toast).textContent = text;
  byId(toast).hash = location.hash;
  toastTimer = setTimeout(() => byId(toast).replaceChildren(), isError ? 6_000 : 2_500);
}

/** Hide a toast that was shown in another view. */
export function hideOldToast() {
  for (const toast of document.querySelectorAll(".toast")) {
    if (toast.hash !== location.hash) toast.textContent = "";
  }
}

/** Run an action that calls the API, and show its failure as a toast. */
export async function attempt(action) {
  try {
    await action();
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    showToast(error.message, { isError: true });
  }
}

/** Ask before an action that cannot be undone. */
export function askConfirmation(question, action) {
  const dialog = byId("confirmation");
  byId("confirmation-question").textContent = question;
  byId("confirmation-yes").textContent = action;
  openDialog(dialog);
  return new Promise((resolve) => {
    byId("confirmation-no").onclick = () => closeDialog(dialog);
    byId("confirmation-yes").onclick = () => {
      resolve(true);
      closeDialog(dialog);
    };
    dialog.addEventListener("close", () => resolve(false), { once: true });
  });
}

/** Show a dialog above the page. iOS before 15.4 has no showModal: its style puts it there. */
export function openDialog(dialog) {
  if (dialog.hasAttribute("open")) return;
  if (dialog.showModal) dialog.showModal();
  else dialog.setAttribute("open", "");
}

export function closeDialog(dialog) {
  if (!dialog.hasAttribute("open")) return;
  if (dialog.close) return dialog.close();
  dialog.removeAttribute("open");
  dialog.dispatchEvent(new Event("close"));
}

export function clearProblem(form) {
  form.querySelector("[role=alert]").textContent = "";
  for (const field of form.elements) field.removeAttribute("aria-invalid");
}

/** Show a failure at the field that it is about, or above the button. */
export function showProblem(form, { message, field, error }) {
  const problem = form.querySelector("[role=alert]");
  const name = error === "capacity_too_small" ? "capacity" : field;
  const input = form.querySelector(`[name="${name}"]:not([type=radio]), [data-field="${name}"]`);
  const button = form.querySelector("button:not([type])");
  if (input) input.after(problem);
  else (button.closest(".buttons") ?? button).before(problem);
  problem.id = `${form.id}-problem`;
  problem.textContent = message;
  input?.setAttribute("aria-invalid", "true");
  input?.setAttribute("aria-errormessage", problem.id);
  input?.focus();
}

/** Run an action when a form is submitted, one at a time, and show its failure in the form. */
export function onSubmit(form, action) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (form.isBusy) return;
    form.isBusy = true;
    clearProblem(form);
    try {
      await action(form.elements);
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      showProblem(form, error);
    } finally {
      form.isBusy = false;
    }
  });
}

/** The page as a whole: which view is shown, and when each is loaded. */

// The oldest browsers that the page supports are iOS 14 and Chromium 87, in the webviews of WeChat.

import { onAnswer } from "./api.js";
import { reload, startPolling } from "./clock.js";
import { attempt, byId, closeDialog, hideOldToast, isVisible, markCurrent } from "./dom.js";
import * as lists from "./lists.js";
import * as me from "./me.js";
import * as requests from "./requests.js";
import * as room from "./room.js";

const { body } = document;

// `place` is the column of the view on a wide screen.
const VIEWS = {
  discover: { place: "list", load: lists.discover, refresh: lists.refreshDiscover },
  mine: { place: "list", load: lists.showMine, refresh: lists.refreshMine },
  room: { place: "detail", load: room.open, refresh: room.refresh },
  new: { place: "detail", load: room.prepareNew },
  me: { place: "detail", load: me.editProfile },
  requests: { place: "panel" },
};

/** Show the view of the url, such as #/room/7. */
async function route() {
  const [, name, argument] = location.hash.split("/");
  const view = Object.keys(VIEWS).includes(name) ? name : "discover";
  const { place, load } = VIEWS[view];
  body.dataset.view = view;
  body.dataset[place] = view;
  for (const back of document.querySelectorAll(".back")) back.href = `#/${body.dataset.list}`;
  document.querySelectorAll("a[href^='#/']").forEach(markCurrent);
  await attempt(() => load?.(argument));
  updateTitle();
}

/** Name the tab after the current view, which may have changed while another one loaded. */
function updateTitle() {
  document.title = `${heading(body.dataset.view).textContent} · 校园房间`;
}

function heading(view) {
  return byId(view).querySelector("h2");
}

async function refresh() {
  const visible = Object.keys(VIEWS).filter(isVisible);
  await Promise.all([lists.refreshOwnRooms(), ...visible.map((view) => VIEWS[view].refresh?.())]);
  updateTitle();
}

function changeUser() {
  me.showUser();
  for (const view of ["mine", "me"]) if (isVisible(view)) attempt(VIEWS[view].load);
  reload();
}

async function start() {
  await route();
  if (body.dataset.view !== "discover") await lists.discover();
  if (body.dataset.view === "login") return;
  if (!me.myOpenid()) me.askOpenid();
  startPolling(refresh);
}

/** Where identities are verified this page cannot log in: show how the mini-program does. */
function showLogin() {
  closeDialogs();
  body.dataset.view = "login";
  updateTitle();
}

function closeDialogs() {
  document.querySelectorAll("dialog").forEach(closeDialog);
}

/** Show while polling fails, until it works again. */
function showConnection({ isAutomatic, failure }) {
  if (failure && !(isAutomatic && failure.isTemporary)) return;
  const text = failure ? `${failure.message}（正在重试…）` : "";
  const note = byId("connection-note");
  if (note.textContent !== text) note.textContent = text; // a screen reader reads it only once
}

onAnswer(requests.add);
onAnswer((exchange) => {
  if (exchange.failure?.error === "login_required") showLogin();
  else showConnection(exchange);
});
addEventListener("hashchange", () => {
  closeDialogs(); // their questions are about the previous view
  hideOldToast();
  route();
  heading(body.dataset.view).focus({ preventScroll: true });
});
matchMedia("(min-width: 800px)").addEventListener("change", reload);
byId("clear").addEventListener("click", requests.clear);
room.start();
lists.start();
me.start(changeUser);
me.showUser();
start();

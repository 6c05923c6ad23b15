/** The page as a whole: which view is shown, and when each is loaded. */

import { onAnswer } from "./api.js";
import { follow, renew } from "./clock.js";
import { attempt, byId, markCurrent } from "./dom.js";
import * as lists from "./lists.js";
import * as me from "./me.js";
import * as requests from "./requests.js";
import * as room from "./room.js";

const { body } = document;

// view: [what loads it, where it stands when there is room for several, what refreshes it]
const VIEWS = {
  discover: [lists.discover, "list", lists.refreshDiscovered],
  mine: [lists.showMine, "list", lists.refreshMine],
  room: [room.open, "detail", room.refresh],
  new: [room.prepareNew, "detail"],
  me: [me.editProfile, "detail"],
  requests: [() => {}, "panel"],
};

/** Show what the url says: #/room/7 and the like. */
async function route() {
  const [, asked, argument] = location.hash.split("/");
  const view = Object.hasOwn(VIEWS, asked) ? asked : "discover";
  const [load, place] = VIEWS[view];
  body.dataset.view = view;
  body.dataset[place] = view;
  for (const back of document.querySelectorAll(".back")) back.href = `#/${body.dataset.list}`;
  document.querySelectorAll("a[href^='#/']").forEach(markCurrent);
  await attempt(() => load(argument));
  entitle();
}

/** Name the tab after what is shown now, whatever was waited for. */
function entitle() {
  document.title = `${heading(body.dataset.view).textContent} · 校园房间`;
}

function heading(view) {
  return byId(view).querySelector("h2");
}

function isVisible(view) {
  return byId(view).getClientRects().length > 0;
}

/** Bring whatever is visible up to date. */
async function refresh() {
  const visible = Object.keys(VIEWS).filter(isVisible);
  await Promise.all(visible.map((view) => VIEWS[view][2]?.()));
  entitle();
}

/** Show everything as seen by whom one is now. */
function seeAsMyself() {
  me.showWho();
  for (const view of ["mine", "me"]) if (isVisible(view)) attempt(VIEWS[view][0]);
  renew();
}

async function begin() {
  await route();
  if (body.dataset.view !== "discover") await lists.discover();
  if (body.dataset.view === "login") return;
  if (!me.whoami()) me.askWho();
  follow(refresh);
}

/** A service that wants to know who calls cannot be used from here: say how it can be. */
function showLogin() {
  closeDialogs();
  body.dataset.view = "login";
  entitle();
}

function closeDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) dialog.close();
}

/** Tell that what is shown cannot be followed, until it can. */
function tellTrouble({ automatic, failure }) {
  if (failure && !(automatic && failure.passing)) return;
  const trouble = failure ? `${failure.message}（正在重试…）` : "";
  const place = byId("trouble");
  if (place.textContent !== trouble) place.textContent = trouble; // or it would be read out again
}

onAnswer(requests.note);
onAnswer((exchange) => {
  if (exchange.failure?.error === "login_required") showLogin();
  else tellTrouble(exchange);
});
addEventListener("hashchange", () => {
  closeDialogs(); // they ask about what was shown
  route();
  heading(body.dataset.view).focus({ preventScroll: true });
});
matchMedia("(min-width: 800px)").addEventListener("change", renew);
byId("clear").addEventListener("click", requests.clear);
room.start();
lists.start();
me.start(seeAsMyself);
me.showWho();
begin();

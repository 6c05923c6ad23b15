/** The user of this tab: the openid, and the profile. */

import { call, Failure } from "./api.js";
import { pollNow } from "./clock.js";
import {
  askConfirmation,
  attempt,
  avatar,
  byId,
  clearProblem,
  closeDialog,
  failureNote,
  fill,
  loadingNote,
  make,
  onSubmit,
  openDialog,
  showToast,
  userText,
} from "./dom.js";
import { forget, recall, remember } from "./storage.js";

const RECENT_AT_MOST = 5;
const SEXES = ["性别不说", "男", "女"]; // WeChat's codes 0, 1 and 2

export function myOpenid() {
  return recall("sessionStorage", "openid");
}

/** Where this browser keeps what the user has read. */
export function readKey() {
  return `read by ${myOpenid()}`;
}

/** The user's openid; asked for if there is none, and undefined if the user does not answer. */
export async function requireOpenid() {
  return myOpenid() ?? askOpenid();
}

export function askOpenid() {
  const dialog = byId("openid-dialog");
  fill(byId("recent-openids"), recentOpenids(), (openid) => openid, drawRecent);
  clearProblem(byId("openid-form"));
  openDialog(dialog);
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(myOpenid()), { once: true });
  });
}

function drawRecent(openid, li) {
  const button = make("button", { type: "button", className: "chip" }, userText(openid));
  button.addEventListener("click", () => {
    byId("openid").value = openid;
    byId("openid-form").querySelector(".primary").click();
  });
  li.append(button);
}

function recentOpenids() {
  return recall("localStorage", "openids") ?? [];
}

export function start(onUserChange) {
  onSubmit(byId("openid-form"), async ({ openid: { value: openid } }) => {
    await call("/usr/roomlist1", { openid, limit: 1 }); // the server refuses what is no openid
    remember("sessionStorage", "openid", openid);
    const others = recentOpenids().filter((each) => each !== openid);
    remember("localStorage", "openids", [openid, ...others].slice(0, RECENT_AT_MOST));
    closeDialog(byId("openid-dialog"));
    onUserChange();
  });
  byId("openid-later").addEventListener("click", () => closeDialog(byId("openid-dialog")));
  for (const button of document.querySelectorAll(".ask-openid")) {
    button.addEventListener("click", askOpenid);
  }
  onSubmit(byId("profile-form"), async ({ nickname, sex, othersex, preference }) => {
    await call("/usr/complete", {
      openid: myOpenid(),
      nickname: nickname.value === nickname.defaultValue ? undefined : nickname.value,
      sex: sex.value === "text" ? othersex.value : Number(sex.value),
      preference: preference.value.split("\n").filter((line) => line.trim()),
    });
    location.hash = "#/mine";
    showToast("已保存");
    pollNow();
  });
  byId("delete-user").addEventListener("click", () => attempt(() => deleteUser(onUserChange)));
}

async function deleteUser(onUserChange) {
  const openid = myOpenid();
  const question =
    `注销 ${myName()}？你的个人信息和说过的话会删除，你会离开所有房间。` +
    "你发起的房间交给最早加入的人，没有别人的就删除。注销以后不能恢复。";
  if (!(await askConfirmation(question, "注销"))) return;
  await call("/usr/delete", { openid });
  if (openid !== myOpenid()) return; // the tab has another user by now
  forget("localStorage", readKey());
  forget("sessionStorage", "openid");
  const others = recentOpenids().filter((each) => each !== openid);
  remember("localStorage", "openids", others);
  delete document.body.dataset.detail;
  location.hash = "#/mine";
  showToast("已注销");
  byId("mine-title").focus();
  onUserChange();
}

let loaded = {}; // the profile that was loaded last, and whose it is

/** The profile, or null if that user has none yet. */
async function fetchProfile(openid, options) {
  const profile = await call("/usr/info", { openid }, options).catch((error) => {
    if (error.error === "user_not_found") return null;
    throw error;
  });
  loaded = { openid, profile };
  showUser();
  return profile;
}

/** The user's nickname, or the openid. */
function myName() {
  const openid = myOpenid();
  return (loaded.openid === openid && loaded.profile?.nickname) || openid;
}

export function showUser() {
  const openid = myOpenid();
  document.body.classList.toggle("no-openid", !openid);
  if (!openid) return;
  for (const place of document.querySelectorAll(".my-name")) {
    place.replaceChildren(avatar(openid, myName()), userText(myName(), "span", { title: openid }));
  }
}

/** Show the user's profile in one line. */
export async function showCard(options) {
  const openid = myOpenid();
  if (options?.isAutomatic && loaded.openid === openid && !loaded.profile) return;
  const profile = await fetchProfile(openid, options);
  byId("card").replaceChildren(userText(profile ? summary(profile) : "还没有完善个人信息"));
}

function summary({ sex, preference }) {
  return [typeof sex === "number" ? SEXES[sex] : sex, ...preference].join(" · ");
}

let edits = 0;

/** Show the form only with the stored profile in it, because saving replaces the whole profile. */
export async function editProfile() {
  const edit = ++edits;
  const form = byId("profile-form");
  const note = byId("profile-note");
  form.hidden = true;
  note.replaceChildren(loadingNote());
  if (!myOpenid()) return;
  try {
    const profile = await fetchProfile(myOpenid());
    if (edit !== edits) return; // opened again since, maybe by another user
    fillForm(form.elements, profile ?? { nickname: "", sex: 0, preference: [] });
    form.hidden = false;
    note.replaceChildren();
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    if (edit === edits) note.replaceChildren(failureNote(error, editProfile));
  }
}

function fillForm(fields, { nickname, sex, preference }) {
  const isCode = typeof sex === "number";
  fields.nickname.value = fields.nickname.defaultValue = nickname;
  fields.sex.value = isCode ? String(sex) : "text";
  fields.othersex.value = isCode ? "" : sex;
  fields.preference.value = preference.join("\n");
}

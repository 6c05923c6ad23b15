/** Who one is in this tab, and one's profile. */

import { call, Failed } from "./api.js";
import { wake } from "./clock.js";
import { avatar, byId, fill, loading, make, onSubmit, problem, say, written } from "./dom.js";
import { recall, remember } from "./storage.js";

const REMEMBERED = 5;
const SEXES = ["性别不说", "男", "女"]; // WeChat's codes 0, 1 and 2

export function whoami() {
  return recall("sessionStorage", "openid");
}

/** Who one is, asked for if that is not known yet; nothing if one does not say. */
export async function somebody() {
  return whoami() ?? askWho();
}

export function askWho() {
  const dialog = byId("who");
  fill(byId("known"), remembered(), (openid) => openid, drawKnown);
  byId("who-problem").textContent = "";
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(whoami()), { once: true });
  });
}

function drawKnown(openid, li) {
  const button = make("button", { type: "button", className: "chip" }, written(openid));
  button.addEventListener("click", () => {
    byId("openid").value = openid;
    byId("who-form").requestSubmit();
  });
  li.append(button);
}

function remembered() {
  return recall("localStorage", "openids") ?? [];
}

/** `changed` is called when one has become somebody. */
export function start(changed) {
  onSubmit(byId("who-form"), async ({ openid: { value: openid } }) => {
    await profileOf(openid); // so the server says whether this is an openid
    remember("sessionStorage", "openid", openid);
    const others = remembered().filter((each) => each !== openid);
    remember("localStorage", "openids", [openid, ...others].slice(0, REMEMBERED));
    byId("who").close();
    changed();
  });
  byId("who-later").addEventListener("click", () => byId("who").close());
  for (const button of document.querySelectorAll(".become")) {
    button.addEventListener("click", askWho);
  }
  onSubmit(byId("profile-form"), async ({ sex, othersex, preference }) => {
    await call("/usr/complete", {
      openid: whoami(),
      sex: sex.value === "text" ? othersex.value : Number(sex.value),
      preference: preference.value.split("\n").filter((line) => line.trim()),
    });
    say("已保存");
    location.hash = "#/mine";
    wake();
  });
}

/** The profile, or null where none was completed yet. */
async function profileOf(openid, options) {
  try {
    return await call("/usr/info", { openid }, options);
  } catch (error) {
    if (error.error === "user_not_found") return null;
    throw error;
  }
}

export function showWho() {
  const openid = whoami();
  document.body.classList.toggle("nobody", !openid);
  byId("message").placeholder = `${openid}：说点什么`; // tells tabs apart
  for (const place of document.querySelectorAll(".me")) {
    place.replaceChildren(...(openid ? [avatar(openid), written(openid)] : ["还没说你是谁"]));
  }
}

/** What others can know about one, in a line. */
export async function showCard(options) {
  const openid = whoami();
  if (!openid) return;
  const profile = await profileOf(openid, options);
  byId("card").replaceChildren(written(profile ? told(profile) : "还没有完善个人信息"));
}

function told({ sex, preference }) {
  return [typeof sex === "number" ? SEXES[sex] : sex, ...preference].join(" · ");
}

let edits = 0;

/** Show the form once it holds what is known, for all of that is replaced by what is saved. */
export async function editProfile() {
  const edit = ++edits;
  const form = byId("profile-form");
  const note = byId("profile-note");
  form.hidden = true;
  note.replaceChildren(loading());
  if (!whoami()) return;
  try {
    const profile = await profileOf(whoami());
    if (edit !== edits) return; // it has been opened anew, or by somebody else
    fillIn(form.elements, profile ?? { sex: 0, preference: [] });
    form.hidden = false;
    note.replaceChildren();
  } catch (error) {
    if (!(error instanceof Failed)) throw error;
    if (edit === edits) note.replaceChildren(problem(error, editProfile));
  }
}

function fillIn(fields, { sex, preference }) {
  const coded = typeof sex === "number";
  fields.sex.value = coded ? String(sex) : "text";
  fields.othersex.value = coded ? "" : sex;
  fields.preference.value = preference.join("\n");
}

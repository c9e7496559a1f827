// The review view: one image, one key, the next image is there. Sending happens behind.

import { LabelSearch } from "./labels.js";
import { Outbox } from "./outbox.js";
import { AHEAD, Ring } from "./ring.js";
import { fill, find, View } from "./view.js";

const LOOK_AGAIN_S = 10; // how often an empty queue is asked for more
const RENEW_S = 60; // a lease lasts minutes: renew it while somebody looks at the page
const KEYS_OFF = "backtalk.keys-off";

const data = JSON.parse(find("review-data").textContent);
const words = data.words;
const answered = new Set(); // never shown twice, even if a lease crosses the answer on its way
const view = new View(data, (label) => choose(label));
const ring = new Ring(lease, (item) => answered.has(item));
const outbox = new Outbox(`backtalk.outbox.${data.reviewer}.${data.model}.`, post, {
  taken: onTaken,
  late: onLate,
  refused: onRefused,
  changed: () => view.showSync(outbox),
});
new LabelSearch(find("label-search"), find("label-list"), data.labels, (label) => choose(label));
let shown = null;
let open = 0;

// --- talking to the server -----------------------------------------------------------------------
function send(address, body, headers = {}, keepalive = false) {
  return fetch(address, {
    method: "POST",
    headers: {
      Accept: "application/json",
      "Content-Type": "application/json",
      "X-CSRF-Token": document.body.dataset.csrf,
      ...headers,
    },
    body: JSON.stringify(body),
    keepalive,
  });
}

async function lease(limit) {
  const response = await send(data.lease, { limit });
  const body = await response.json();
  if (response.ok) return body;
  throw Object.assign(new Error(body.message), { status: response.status });
}

function post({ item, etag, action, label }) {
  const keepalive = true; // a closing tab still sends what it has begun
  return send(data.decide.replace("ITEM", item), { action, label }, { "If-Match": etag }, keepalive);
}

// --- the queue -----------------------------------------------------------------------------------
async function refill() {
  try {
    const { counts, more } = await ring.fill(outbox.size);
    showCounts(counts);
    // All of them were answered while the lease was on its way.
    if (!ring.current && more) return refill();
  } catch (error) {
    if (!ring.current) view.tell(error.status ? error.message : words.leaseFailed);
  }
  showCurrent();
}

function showCurrent() {
  const item = ring.current;
  if (item && item === shown) return;
  if (item && shown && item.item === shown.item) view.tell(words.reportArrived);
  shown = item;
  if (item) view.show(item);
  else if (ring.asking) view.showLoading();
  else view.showEmpty(Math.max(0, open - outbox.size));
}

function showCounts(counts) {
  open = counts.open;
  view.showCounts(counts);
}

// --- answering -----------------------------------------------------------------------------------
function choose(label) {
  const item = ring.current;
  if (!item) return;
  if (label === view.preselected(item)) answer("approve", null);
  else answer("relabel", label);
}

function answer(action, label) {
  const item = ring.current;
  if (!item) return;
  const right = label ?? view.preselected(item);
  ring.advance();
  answered.add(item.item);
  view.tell(fill(words.did[action], { label: right }));
  outbox.add({ item: item.item, etag: item.etag, action, label, right });
  if (ring.items.length < AHEAD - 1) refill();
  showCurrent();
}

function onTaken(answer, body) {
  showCounts(body.counts);
  if (answer.action === "skip") answered.delete(answer.item);
  else if (!body.final) view.tell(words.waitsForSecond);
  if (!ring.items.length) refill();
}

function onLate(answer, body) {
  const decided = body.decided;
  if (!decided) {
    // Still open, but no longer as it was: a report came in meanwhile. It is offered again.
    answered.delete(answer.item);
    view.addLate(words.changedMeanwhile);
    refill();
  } else if (!(decided.own && decided.action === answer.action && decided.label === (answer.action === "reject" ? null : answer.right))) {
    view.addLate(fill(words.late, { what: decided.said, mine: fill(words.did[answer.action], { label: answer.right }) }));
  } // else: our own answer, whose first sending had arrived after all
}

function onRefused(answer, body) {
  view.addLate(fill(words.refused, { mine: fill(words.did[answer.action], { label: answer.right }), why: body.message }));
}

// --- keys and buttons ----------------------------------------------------------------------------
const actions = {
  a: () => answer("approve", null),
  x: () => answer("reject", null),
  " ": () => answer("skip", null),
  "?": () => find("help").showModal(),
  "/": () => find("other").hidden || find("label-search").focus(),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.defaultPrevented) return;
  const typing = event.target.closest("input:not([type=checkbox]), select, textarea, dialog");
  const pressing = [" ", "Enter"].includes(event.key) && event.target.closest("button, a");
  if (typing || pressing || !keysOn()) return;
  const digit = /^[1-5]$/.test(event.key) ? Number(event.key) : 0;
  const item = ring.current;
  const label = digit && item ? view.top(item)[digit - 1]?.label : undefined;
  const act = label !== undefined ? () => choose(label) : actions[event.key.toLowerCase()];
  if (!act) return;
  event.preventDefault();
  act();
}

function keysOn() {
  return find("keys-on").checked;
}

function switchKeys() {
  document.body.classList.toggle("keys-off", !keysOn());
  try {
    localStorage.setItem(KEYS_OFF, keysOn() ? "" : "yes");
  } catch {
    // Then it holds for this page alone.
  }
}

function restoreKeys() {
  try {
    find("keys-on").checked = localStorage.getItem(KEYS_OFF) !== "yes";
  } catch {
    find("keys-on").checked = true;
  }
  document.body.classList.toggle("keys-off", !keysOn());
}

function onPointer(event) {
  // After a click the space key means "skip" again, not "press the same button once more".
  if (event.detail > 0) event.target.closest(".question button, .actions button")?.blur();
}

document.addEventListener("keydown", onKey);
document.addEventListener("click", onPointer);
find("approve").addEventListener("click", () => answer("approve", null));
find("reject").addEventListener("click", () => answer("reject", null));
find("skip").addEventListener("click", () => answer("skip", null));
find("help-button").addEventListener("click", () => find("help").showModal());
find("keys-on").addEventListener("change", switchKeys);
find("send-now").addEventListener("click", () => outbox.send());
addEventListener("online", () => outbox.send());
document.addEventListener("visibilitychange", () => document.hidden || refill());
setInterval(() => document.hidden || ring.current || refill(), LOOK_AGAIN_S * 1000);
setInterval(() => document.hidden || !ring.current || refill(), RENEW_S * 1000);

restoreKeys();
outbox.waiting.forEach((answer) => answered.add(answer.item));
view.showSync(outbox);
outbox.send();
refill();

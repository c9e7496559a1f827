// The focus view: one image, one key, the next image is there. Sending happens behind.

import { Desk } from "./desk.js";
import { listenToKeys } from "./keys.js";
import { LabelSearch } from "./labels.js";
import { goToQueue } from "./queues.js";
import { AHEAD, Ring } from "./ring.js";
import { listenToSwipes } from "./swipe.js";
import { fill, find, View } from "./view.js";

const LOOK_AGAIN_S = 10; // how often an empty queue is asked for more
const RENEW_S = 60; // a lease lasts minutes: renew it while somebody looks at the page

const data = JSON.parse(find("review-data").textContent);
const words = data.words;
const answered = new Set(); // never shown twice, even if a lease crosses the answer on its way
const desk = new Desk(data, { taken: onTaken, reopened: onReopened, gone: onGone, again: onAgain });
const view = new View(data, (label) => choose(label));
const ring = new Ring((limit) => desk.ask(data.lease, { limit, queue: data.queue, view: desk.view }), (item) => answered.has(item));
new LabelSearch(find("label-search"), find("label-list"), data.labels, (label) => choose(label));
let shown = null;

// --- the queue -----------------------------------------------------------------------------------
async function refill() {
  try {
    const { counts, more } = await ring.fill(desk.outbox.size);
    desk.showCounts(counts);
    // All of them were answered while the lease was on its way.
    if (!ring.current && more) return refill();
  } catch (error) {
    if (!ring.current) desk.tell(error.status ? error.message : words.leaseFailed);
  }
  showCurrent();
}

function showCurrent() {
  const item = ring.current;
  if (item && item === shown) return;
  if (item && shown && item.item === shown.item) desk.tell(words.reportArrived);
  shown = item;
  if (item) view.show(item);
  else if (ring.asking) view.showLoading();
  else view.showEmpty(Math.max(0, desk.open - desk.outbox.size));
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
  showCurrent();
  desk.tell(fill(words.did[action], { label: right }));
  desk.answer([item], () => action, () => label, () => right);
  if (ring.items.length < AHEAD - 1) refill();
}

/** The last answer is taken back: its item is shown again at once, and the server is told behind. */
function undo() {
  for (const back of desk.undo()) {
    answered.delete(back.item);
    ring.remove(back.item); // a skipped item may have come round again
    if (!ring.bringBack(back) && back.etag !== null) refill();
  }
  shown = null;
  showCurrent();
}

function onTaken(answer, result) {
  if (answer.action === "skip" || answer.action === "flag") answered.delete(answer.item);
  else if (!result.final) desk.tell(words.waitsForSecond);
  if (!ring.items.length) refill();
}

function onReopened(item, etag) {
  ring.setEtag(item, etag);
  if (!ring.items.some((known) => known.item === item) && !answered.has(item)) refill();
}

function onGone(answer) {
  if (answer.action === "undo") ring.remove(answer.item);
  showCurrent();
}

function onAgain(answer) {
  answered.delete(answer.item);
  refill();
}

// --- keys and buttons ----------------------------------------------------------------------------
const actions = {
  a: () => answer("approve", null),
  x: () => answer("reject", null),
  f: () => answer("flag", null),
  " ": () => answer("skip", null),
  backspace: undo,
  q: () => goToQueue(1),
  "?": () => find("help").showModal(),
  "/": () => find("other").hidden || find("label-search").focus(),
};

listenToKeys((key) => {
  if (key === "Q") return () => goToQueue(-1);
  const digit = /^[1-5]$/.test(key) ? Number(key) : 0;
  const item = ring.current;
  const label = digit && item ? view.top(item)[digit - 1]?.label : undefined;
  return label !== undefined ? () => choose(label) : actions[key.toLowerCase()];
});

listenToSwipes(find("stage"), words.swipe, (action) => answer(action, null));

function onPointer(event) {
  // After a click the space key means "skip" again, not "press the same button once more".
  if (event.detail > 0) event.target.closest(".question button, .actions button")?.blur();
}

document.addEventListener("click", onPointer);
find("approve").addEventListener("click", actions.a);
find("reject").addEventListener("click", actions.x);
find("skip").addEventListener("click", actions[" "]);
find("flag").addEventListener("click", actions.f);
find("undo").addEventListener("click", undo);
addEventListener("pageshow", (event) => event.persisted && refill());
document.addEventListener("visibilitychange", () => document.hidden || refill());
setInterval(() => document.hidden || ring.current || refill(), LOOK_AGAIN_S * 1000);
setInterval(() => document.hidden || !ring.current || refill(), RENEW_S * 1000);

desk.outbox.waiting.forEach((answer) => answer.action === "undo" || answered.add(answer.item));
desk.outbox.send();
refill();

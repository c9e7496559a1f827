// The grid: many items, all in at first; click out the exceptions, answer for the rest at once.

import { Desk } from "./desk.js";
import { listenToKeys } from "./keys.js";
import { LabelSearch } from "./labels.js";
import { goToQueue } from "./queues.js";
import { fill, find, percent, preselect, TINY_PX } from "./view.js";

const RENEW_S = 60;

const data = JSON.parse(find("review-data").textContent);
const words = data.words;
const list = find("tiles");
const tiles = new Map(); // by item id: {item, row, button}
const answered = new Set(); // never shown twice, even if a lease crosses the answer on its way
const desk = new Desk(data, { taken: onTaken, reopened: onReopened, again: onAgain });
new LabelSearch(find("label-search"), find("label-list"), data.labels, (label) => decide("relabel", label));
let anchor = null; // where a range begins
let asking = null;

// --- tiles -------------------------------------------------------------------------------------
/** Renew what is shown and fill up. One request at a time. */
function refill() {
  asking ??= askForTiles().finally(() => (asking = null));
  return asking;
}

async function askForTiles() {
  const hold = [...tiles.keys()];
  try {
    const body = await desk.ask(data.lease, { selection: data.selection, hold, view: desk.view });
    const lost = hold.filter((id) => !(id in body.held) && tiles.has(id));
    lost.forEach(removeTile);
    for (const [id, until] of Object.entries(body.held)) if (tiles.has(id)) tiles.get(id).item.lease_until = until;
    if (lost.length) desk.tell(fill(words.taken, { n: lost.length }));
    for (const item of body.items) if (!answered.has(item.item)) addTile(item);
    desk.showCounts(body.counts);
    find("remark").hidden = !body.remark;
    if (body.remark) find("remark").textContent = words[body.remark];
  } catch (error) {
    desk.tell(error.status ? error.message : words.leaseFailed);
  }
  showSelection();
}

function addTile(item) {
  if (tiles.has(item.item)) return;
  const row = find("tile-template").content.cloneNode(true).firstElementChild;
  const button = row.querySelector("button");
  const image = row.querySelector("img");
  image.alt = fill(words.tileAlts[item.kind], item);
  image.addEventListener("load", () => image.classList.toggle("tiny", Math.max(image.naturalWidth, image.naturalHeight) < TINY_PX));
  image.src = item.image;
  const right = rightOf(item);
  row.querySelector(".tile-pair").textContent = fill(words.pairs[item.kind], item);
  row.querySelector(".tile-score").textContent = percent(item.scores[data.labels.indexOf(right)] ?? 0);
  const marks = [item.flagged && words.flagged, item.disputed && words.disputed, item.mark && words.lookTwice];
  row.querySelector(".tile-marks").textContent = marks.filter(Boolean).join(", ");
  if (item.mark) row.querySelector(".tile-marks").title = item.mark;
  row.querySelector(".tile-like").href = `${data.grid}?${new URLSearchParams({ by: data.selection.by ?? "pair", like: item.item })}`;
  button.addEventListener("click", (event) => toggle(item.item, event.shiftKey));
  button.addEventListener("focus", () => setStop(button));
  button.tabIndex = tiles.size ? -1 : 0; // one stop for the Tab key; the arrows go on from there
  tiles.set(item.item, { item, row, button });
  setIn(item.item, true);
  list.append(row);
}

function removeTile(id) {
  const tile = tiles.get(id);
  if (!tile) return;
  const focused = tile.row.contains(document.activeElement);
  const next = tile.row.nextElementSibling ?? tile.row.previousElementSibling;
  const stop = tile.button.tabIndex === 0;
  tile.row.remove();
  tiles.delete(id);
  if (anchor === id) anchor = null;
  const button = next?.querySelector("button") ?? list.querySelector("button");
  if (stop && button) button.tabIndex = 0;
  if (focused) button?.focus();
}

function setStop(button) {
  for (const tile of tiles.values()) tile.button.tabIndex = tile.button === button ? 0 : -1;
}

function rightOf(item) {
  return preselect(item);
}

// --- selecting -----------------------------------------------------------------------------------
function isIn(id) {
  return tiles.get(id).button.getAttribute("aria-pressed") === "true";
}

function setIn(id, wanted) {
  const { button } = tiles.get(id);
  button.setAttribute("aria-pressed", String(wanted));
  button.querySelector(".tile-said").textContent = wanted ? words.in : words.out;
}

/** With `range`, all from the last one that was toggled on become what that one is. */
function toggle(id, range) {
  const order = [...list.children].map((row) => [...tiles].find(([, tile]) => tile.row === row)[0]);
  if (range && anchor !== null && anchor !== id) {
    const [from, to] = [order.indexOf(anchor), order.indexOf(id)].sort((a, b) => a - b);
    const wanted = isIn(anchor);
    for (const other of order.slice(from, to + 1)) setIn(other, wanted);
  } else {
    setIn(id, !isIn(id));
    anchor = id;
  }
  showSelection();
}

function selectAll(wantedOf) {
  for (const id of tiles.keys()) setIn(id, wantedOf(id));
  showSelection();
}

function selected() {
  return [...tiles.values()].filter(({ item }) => isIn(item.item)).map(({ item }) => item);
}

function showSelection() {
  const n = selected().length;
  find("selected").textContent = tiles.size ? fill(words.selected, { n, all: tiles.size }) : "";
  find("approve-text").textContent = fill(words.approve, { n: n || "" }).trim();
  find("main").dataset.state = tiles.size ? "items" : asking ? "loading" : "empty";
  find("empty").hidden = find("main").dataset.state !== "empty";
}

// --- answering -----------------------------------------------------------------------------------
function decide(action, label = null) {
  const items = selected();
  if (!items.length) return desk.tell(words.noneSelected);
  // To relabel as what was reported is to approve.
  const [same, other] = action === "relabel" ? split(items, (item) => rightOf(item) === label) : [[], items];
  items.forEach(({ item }) => answered.add(item));
  items.forEach(({ item }) => removeTile(item));
  desk.tell(fill(words.batch[action], { n: items.length, label }));
  desk.answer(
    [...same, ...other],
    (item) => (same.includes(item) ? "approve" : action),
    (item) => (same.includes(item) ? null : label),
    (item) => label ?? rightOf(item),
  );
  showSelection();
  refill().then(showSelection);
}

function split(items, test) {
  return [items.filter(test), items.filter((item) => !test(item))];
}

/** The last answer is taken back, however many items it was about. */
async function undo() {
  const back = desk.undo();
  back.forEach(({ item }) => answered.delete(item));
  if (back.some(({ etag }) => etag !== null)) await refill(); // never sent: they are still ours
}

function onTaken(answer, result) {
  if (answer.action === "flag") answered.delete(answer.item);
  else if (!result.final) desk.tell(words.waitsForSecond);
}

function onReopened() {
  // A batch comes back as one: asked for when the last of it is through.
  clearTimeout(onReopened.timer);
  onReopened.timer = setTimeout(() => refill(), 50);
}

function onAgain(answer) {
  answered.delete(answer.item);
  refill();
}

// --- keys and buttons ----------------------------------------------------------------------------
const actions = {
  a: () => decide("approve"),
  x: () => decide("reject"),
  f: () => decide("flag"),
  s: () => selectAll(() => true),
  n: () => selectAll(() => false),
  i: () => selectAll((id) => !isIn(id)),
  m: () => document.activeElement.closest(".tile")?.querySelector(".tile-like").click(),
  backspace: undo,
  q: () => goToQueue(1),
  "?": () => find("help").showModal(),
  "/": () => find("label-search").focus(),
};

listenToKeys((key) => {
  if (key === "Q") return () => goToQueue(-1);
  const step = stepOf(key);
  return step ? () => go(step) : actions[key.toLowerCase()];
});

function stepOf(key) {
  const rows = [...list.children];
  const columns = rows.filter((row) => row.offsetTop === rows[0]?.offsetTop).length || 1;
  return { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[key] ?? 0;
}

function go(step) {
  const buttons = [...list.querySelectorAll("button")];
  if (!buttons.length) return;
  const at = buttons.indexOf(document.activeElement);
  const next = at < 0 ? 0 : Math.min(Math.max(at + step, 0), buttons.length - 1);
  buttons[next].focus();
}

// Space on a tile with shift: a range, as with the mouse. (Browsers tell no click by key that shift was held.)
list.addEventListener("keydown", (event) => {
  const tile = event.target.closest("button") && [...tiles.values()].find(({ button }) => button === event.target);
  if (!tile || event.key !== " " || !event.shiftKey) return;
  event.preventDefault();
  toggle(tile.item.item, true);
});

for (const [id, act] of Object.entries({ approve: actions.a, reject: actions.x, flag: actions.f, undo, all: actions.s, none: actions.n, invert: actions.i })) {
  find(id).addEventListener("click", act);
}
find("filters").addEventListener("submit", (event) => {
  // An address without what is not asked for.
  event.preventDefault();
  const given = Object.fromEntries(new FormData(event.target));
  if (["audits", "uncertain"].includes(given.queue)) delete given.reported; // nobody reported those
  const chosen = Object.entries(given).filter(([name, value]) => value && value !== { by: "pair", sort: "age" }[name]);
  location.assign(`${data.grid}${chosen.length ? "?" : ""}${new URLSearchParams(chosen)}`);
});
find("filters").addEventListener("change", (event) => event.currentTarget.requestSubmit());
addEventListener("pageshow", (event) => event.persisted && refill());
setInterval(() => document.hidden || refill(), RENEW_S * 1000);

desk.outbox.waiting.forEach((answer) => answer.action === "undo" || answered.add(answer.item));
desk.outbox.send();
refill().then(showSelection);

// What focus view and grid share: talking to the server, the outbox with its marks, and taking back.

import { makeId, Outbox } from "./outbox.js";
import { fill, find } from "./view.js";

const REMEMBERED = 10; // answers, or batches, that can be taken back

export class Desk {
  /**
   * @param {object} data  of the page
   * @param {{taken?: Function, reopened?: Function, gone?: Function, again?: Function}} on
   */
  constructor(data, on) {
    this.data = data;
    this.words = data.words;
    this.on = on;
    this.open = 0;
    this.view = makeId(); // leases are for this page as long as it is open
    this.past = new Past(`backtalk.past.${data.reviewer}.${data.model}`);
    this.outbox = new Outbox(`backtalk.outbox.${data.reviewer}.${data.model}.`, (answers) => this.send(data.answers, { answers, queue: data.queue }), {
      settled: (answer, result) => this.#settle(answer, result),
      counted: (counts) => this.showCounts(counts),
      changed: () => this.#showSync(),
    });
    find("send-now").addEventListener("click", () => this.outbox.send());
    addEventListener("online", () => this.outbox.send());
    addEventListener("pagehide", () => this.#leave());
    addEventListener("pageshow", (event) => event.persisted && (this.view = makeId()));
    this.#showSync();
  }

  /** POST as JSON. The browser carries it to its end even if the page is left meanwhile. */
  send(address, body) {
    return fetch(address, {
      method: "POST",
      headers: {
        Accept: "application/json",
        "Content-Type": "application/json",
        "X-CSRF-Token": document.body.dataset.csrf,
      },
      body: JSON.stringify(body),
      keepalive: true,
    });
  }

  /** As `send`; gives the body, or throws what the server says. */
  async ask(address, body) {
    const response = await this.send(address, body);
    const answer = await response.json();
    if (response.ok) return answer;
    throw Object.assign(new Error(answer.message), { status: response.status });
  }

  /** Let others have what this page held, and what is on its way to it still. */
  #leave() {
    this.outbox.flush();
    this.send(this.data.release, { view: this.view }).catch(() => {});
  }

  /** Answer items at once. `rightOf` gives the label that the answer finds right, for what is said of it. */
  answer(items, actionOf, labelOf, rightOf) {
    const batch = items.length > 1 ? makeId() : null;
    const answers = items.map((item) => ({
      id: makeId(),
      batch,
      action: actionOf(item),
      item: item.item,
      etag: item.etag,
      label: labelOf(item),
      right: rightOf(item),
    }));
    this.past.push({ batch, answers: answers.map(({ id, item, action, right, etag }) => ({ id, item, action, right, etag })) });
    this.outbox.add(...answers);
  }

  /** Take back the last answer, or the last batch as one; the items that were meant, or none. */
  undo() {
    const last = this.past.pop();
    if (!last) {
      this.tell(this.words.nothingToUndo);
      return [];
    }
    const undos = [];
    const items = last.answers.map((answer) => {
      if (this.outbox.cancel(answer.id)) return { item: answer.item, etag: answer.etag };
      undos.push({ id: makeId(), batch: last.batch, action: "undo", item: answer.item, etag: null, label: null, undoes: answer.id, meant: answer });
      return { item: answer.item, etag: null };
    });
    if (undos.length) this.outbox.add(...undos);
    const mine = last.answers.length > 1 ? fill(this.words.batchOf ?? "{n}", { n: last.answers.length }) : this.describe(last.answers[0]);
    this.tell(fill(this.words.undone, { mine }));
    return items;
  }

  describe({ action, right }) {
    return fill(this.words.did[action], { label: right });
  }

  #settle(answer, result) {
    if (answer.action === "undo") return this.#settleUndo(answer, result);
    if (result.state === "taken") return this.on.taken?.(answer, result);
    this.past.forget(answer.id); // it did not count: nothing to take back
    if (result.state === "changed") {
      // Still open, but no longer as it was: a report came in meanwhile. It is offered again.
      this.addCard(this.words.changedMeanwhile);
      return this.on.again?.(answer);
    }
    const mine = this.describe(answer);
    if (result.state === "late") this.#tellLate(answer, result.decided, mine);
    else this.addCard(fill(this.words.refused, { mine, why: result.message }));
    return this.on.gone?.(answer, result);
  }

  #tellLate(answer, decided, mine) {
    const same = decided.action === answer.action && decided.label === (answer.action === "reject" ? null : answer.right);
    if (decided.own && same) return; // our own answer from another window, and it says the same
    this.addCard(fill(this.words.late, { what: decided.said, mine }));
  }

  #settleUndo(undo, result) {
    if (result.state === "taken") {
      this.outbox.release(undo.item, result.etag);
      if (result.learned) this.addCard(fill(this.words.undoing, { mine: this.describe(undo.meant) }) + " " + result.learned);
      return this.on.reopened?.(undo.item, result.etag);
    }
    this.addCard(fill(this.words.notUndone, { mine: this.describe(undo.meant), why: result.message }));
    for (const lost of this.outbox.drop(undo.item)) {
      this.past.forget(lost.id);
      this.addCard(fill(this.words.refused, { mine: this.describe(lost), why: result.message }));
    }
    return this.on.gone?.(undo, result);
  }

  // --- what everybody sees ---------------------------------------------------------------------
  /** Say what an answer did; screen readers hear it. */
  tell(text) {
    find("result").textContent = text;
  }

  showCounts(counts) {
    const format = new Intl.NumberFormat(document.documentElement.lang);
    this.open = counts.open;
    const many = counts.open > this.data.countedMost;
    const shown = format.format(Math.min(counts.open, this.data.countedMost)).replaceAll(",", "\u202f");
    find("open-count").textContent = many ? fill(this.words.manyOpen, { n: shown }) : shown;
    find("today-count").textContent = format.format(counts.today).replaceAll(",", "\u202f");
  }

  #showSync() {
    const { outbox, words } = this;
    const stuck = outbox.failures > 0 && outbox.size > 0;
    const state = stuck ? "stuck" : outbox.size ? "sending" : "sent";
    const sync = find("sync");
    // Only a change is announced, not each answer that is on its way.
    if (sync.dataset.state !== state || stuck) {
      sync.dataset.state = state;
      const use = sync.querySelector("use");
      use.setAttribute("href", use.getAttribute("href").replace(/#.*/, `#${{ stuck: "warn", sending: "wait", sent: "approve" }[state]}`));
    }
    find("sync-text").textContent = fill({ stuck: words.notSent, sending: words.sending, sent: words.sent }[state], { n: outbox.size });
    find("stuck").hidden = !stuck;
    find("sign-in-again").hidden = outbox.blocked !== "signed-out";
    if (stuck) find("stuck-text").textContent = fill(words.stuck[outbox.blocked ?? "network"], { n: outbox.size });
  }

  /** A card that stays until it was read: an answer that did not count, or what an undo does not undo. */
  addCard(text) {
    const same = [...find("late").children].find((card) => card.dataset.text === text);
    if (same) {
      // A batch may say the same of each of its items: once, with their number.
      same.dataset.n = String(Number(same.dataset.n) + 1);
      same.querySelector("p").textContent = `${text} (${same.dataset.n} ×)`;
      return;
    }
    const card = find("late-template").content.cloneNode(true).firstElementChild;
    Object.assign(card.dataset, { text, n: "1" });
    card.querySelector("p").textContent = text;
    card.querySelector("button").addEventListener("click", () => card.remove());
    find("late").append(card);
  }
}

/** The last answers of this tab; a reload keeps them. */
class Past {
  constructor(name) {
    this.name = name;
    try {
      this.entries = JSON.parse(sessionStorage.getItem(name)) ?? [];
    } catch {
      this.entries = [];
    }
  }

  push(entry) {
    this.entries = [...this.entries, entry].slice(-REMEMBERED);
    this.#keep();
  }

  pop() {
    const last = this.entries.pop();
    this.#keep();
    return last;
  }

  forget(id) {
    for (const entry of this.entries) entry.answers = entry.answers.filter((answer) => answer.id !== id);
    this.entries = this.entries.filter((entry) => entry.answers.length);
    this.#keep();
  }

  #keep() {
    try {
      sessionStorage.setItem(this.name, JSON.stringify(this.entries));
    } catch {
      // Then a reload forgets them.
    }
  }
}

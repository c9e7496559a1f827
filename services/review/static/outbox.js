// Answers wait here until the server has taken them. They lie in localStorage, so that neither a lost
// network nor a closed tab loses one. Each has an id of its own: sent twice, it is taken down once.

const RETRY_S = [1, 2, 4, 8, 15, 30];
const AT_ONCE = 6; // answers in one request: each is a transaction, and a request is to stay short
const AT_LAST = 50; // in the last request: one that outlives its page holds 64 kB at most

/** A random UUID. (crypto.randomUUID is missing where a page is served without HTTPS.) */
export function makeId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

export class Outbox {
  /**
   * @param {string} prefix  of the names in localStorage: one per reviewer and model
   * @param {(answers: object[]) => Promise<Response>} post
   * @param {{settled: (answer: object, result: object) => void, counted: (counts: object) => void, changed: () => void}} on
   */
  constructor(prefix, post, on) {
    this.prefix = prefix;
    this.post = post;
    this.on = on;
    this.waiting = this.#read();
    this.failures = 0;
    this.blocked = null; // "signed-out" or "stale": only a person can go on
    this.busy = false;
    this.timer = null;
  }

  get size() {
    return this.waiting.length;
  }

  /** An answer with `etag: null` waits for the undo before it, which says how the item is then. */
  add(...answers) {
    for (const answer of answers) {
      const kept = { ...answer, at: Date.now() + this.waiting.length / 1000, tried: false };
      this.waiting.push(kept);
      this.#keep(kept);
    }
    this.send();
  }

  /** True if the answer was still here and never sent: then nothing was decided. */
  cancel(id) {
    const at = this.waiting.findIndex((answer) => answer.id === id && !answer.tried);
    if (at < 0) return false;
    this.#forget(...this.waiting.splice(at, 1));
    return true;
  }

  /** The undo is through: what was answered about the item since may go. */
  release(item, etag) {
    for (const answer of this.waiting) {
      if (answer.item !== item || answer.etag !== null || answer.action === "undo") continue;
      answer.etag = etag;
      this.#keep(answer);
    }
  }

  /** The undo was refused: what was answered about the item since has no ground. Returns those answers. */
  drop(item) {
    const lost = this.waiting.filter((answer) => answer.item === item && answer.etag === null && answer.action !== "undo");
    this.waiting = this.waiting.filter((answer) => !lost.includes(answer));
    this.#forget(...lost);
    return lost;
  }

  /** Send what waits, in order; what fails is tried again later. */
  async send() {
    if (this.busy || !this.waiting.length) return;
    this.busy = true;
    clearTimeout(this.timer);
    this.on.changed();
    while (this.waiting.length && (await this.#sendSome())) this.on.changed();
    this.busy = false;
    if (this.waiting.length && !this.blocked) {
      const wait_s = RETRY_S[Math.min(this.failures, RETRY_S.length) - 1] ?? 1;
      this.timer = setTimeout(() => this.send(), wait_s * 1000);
    }
    this.on.changed();
  }

  /** The page is being left: what waits is sent once more, and the browser carries it to its end. */
  flush() {
    const ready = this.#ready(AT_LAST);
    for (const answer of ready) answer.tried = true;
    if (ready.length) this.post(ready.map(bare)).catch(() => {}); // it stays in localStorage for the next visit
  }

  /** The first answers up to one that waits for an undo. */
  #ready(most) {
    const end = this.waiting.findIndex((answer) => answer.etag === null && answer.action !== "undo");
    return this.waiting.slice(0, Math.min(most, end < 0 ? most : end));
  }

  /** True if the first answers are settled, one way or the other. */
  async #sendSome() {
    const sending = this.#ready(AT_ONCE);
    if (!sending.length) return false;
    for (const answer of sending) {
      answer.tried = true;
      this.#keep(answer);
    }
    let response, body;
    try {
      response = await this.post(sending.map(bare));
      body = await response.json();
    } catch {
      return this.#failed(null);
    }
    if (response.status === 401) return this.#failed("signed-out");
    if (body.condition === "StalePage") return this.#failed("stale");
    if (!response.ok) return this.#failed(null);
    this.failures = 0;
    this.blocked = null;
    this.waiting = this.waiting.filter((answer) => !sending.includes(answer));
    this.#forget(...sending);
    this.on.counted(body.counts);
    body.results.forEach((result, i) => this.on.settled(sending[i], result));
    return true;
  }

  #failed(blocked) {
    this.failures += 1;
    this.blocked = blocked;
    return false;
  }

  // One entry an answer: two tabs never overwrite each other's.
  #read() {
    try {
      const keys = Object.keys(localStorage).filter((key) => key.startsWith(this.prefix));
      return keys.map((key) => JSON.parse(localStorage.getItem(key))).sort((a, b) => a.at - b.at);
    } catch {
      return [];
    }
  }

  #keep(answer) {
    try {
      localStorage.setItem(this.prefix + answer.id, JSON.stringify(answer));
    } catch {
      // A browser that forbids storage still sends; only a closed tab would lose what waits.
    }
  }

  #forget(...answers) {
    try {
      for (const { id } of answers) localStorage.removeItem(this.prefix + id);
    } catch {
      // As above.
    }
  }
}

/** What the server needs of an answer. */
function bare({ id, batch, action, item, etag, label, undoes }) {
  return { id, batch, action, item, etag, label, undoes };
}

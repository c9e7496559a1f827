// Answers wait here until the server has taken them. They lie in localStorage, so that neither a lost
// network nor a closed tab loses one. Sending one twice does no harm: the server takes the first alone.

const RETRY_S = [1, 2, 4, 8, 15, 30];

export class Outbox {
  /**
   * @param {string} prefix  of the names in localStorage: one per reviewer and model
   * @param {(answer: object) => Promise<Response>} post
   * @param {{taken: Function, late: Function, refused: Function, changed: Function}} on
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

  add(answer) {
    const kept = { ...answer, at: Date.now() };
    this.waiting.push(kept);
    this.#keep(kept);
    this.send();
  }

  /** Send what waits, in order; what fails is tried again later. */
  async send() {
    if (this.busy || !this.waiting.length) return;
    this.busy = true;
    clearTimeout(this.timer);
    this.on.changed();
    while (this.waiting.length && (await this.#sendFirst())) this.on.changed();
    this.busy = false;
    if (this.waiting.length && !this.blocked) {
      const wait_s = RETRY_S[Math.min(this.failures, RETRY_S.length) - 1] ?? 1;
      this.timer = setTimeout(() => this.send(), wait_s * 1000);
    }
    this.on.changed();
  }

  /** True if the first answer is settled, one way or the other. */
  async #sendFirst() {
    const answer = this.waiting[0];
    let response, body;
    try {
      response = await this.post(answer);
      body = await response.json();
    } catch {
      return this.#failed(null);
    }
    if (response.status === 401) return this.#failed("signed-out");
    if (body.condition === "StalePage") return this.#failed("stale");
    if (response.status === 429 || response.status >= 500) return this.#failed(null);
    this.failures = 0;
    this.blocked = null;
    this.waiting.shift();
    this.#forget(answer);
    if (response.ok) this.on.taken(answer, body);
    else if (response.status === 412) this.on.late(answer, body);
    else this.on.refused(answer, body);
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
      localStorage.setItem(this.prefix + answer.item, JSON.stringify(answer));
    } catch {
      // A browser that forbids storage still sends; only a closed tab would lose what waits.
    }
  }

  #forget(answer) {
    try {
      localStorage.removeItem(this.prefix + answer.item);
    } catch {
      // As above.
    }
  }
}

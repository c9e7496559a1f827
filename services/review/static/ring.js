// The items leased to this reviewer, their pictures decoded before they are needed.

export const AHEAD = 8;
const KEPT = 10; // answered ones, so that what is taken back is there at once

export class Ring {
  /** @param {(limit: number) => Promise<{items: object[], counts: object}>} lease */
  constructor(lease, isAnswered) {
    this.lease = lease;
    this.isAnswered = isAnswered;
    this.items = [];
    this.answered = [];
    this.asking = null;
  }

  get current() {
    return this.items[0] ?? null;
  }

  /** Drop the current item; the next one is at once the current. */
  advance() {
    const item = this.items.shift();
    this.answered = [...this.answered, item].slice(-KEPT);
    return item;
  }

  /** Show an answered item again, before all others. False if it is not here any more. */
  bringBack({ item, etag }) {
    const at = this.answered.findLastIndex((known) => known.item === item);
    if (at < 0) return false;
    const [back] = this.answered.splice(at, 1);
    this.items.unshift({ ...back, etag });
    return true;
  }

  setEtag(item, etag) {
    for (const known of this.items) if (known.item === item) known.etag = etag;
  }

  remove(item) {
    this.items = this.items.filter((known) => known.item !== item);
  }

  /** Lease up to AHEAD more items than the `pending` ones, and renew those held. One request at a time. */
  fill(pending) {
    this.asking ??= this.#fill(pending).finally(() => (this.asking = null));
    return this.asking;
  }

  async #fill(pending) {
    const limit = AHEAD + pending;
    const { items, counts } = await this.lease(limit);
    for (const item of items) {
      if (this.isAnswered(item.item)) continue;
      const at = this.items.findIndex((known) => known.item === item.item);
      if (at < 0) this.items.push(preload(item));
      else if (this.items[at].etag === null) continue; // being taken back: the undo says how it is then
      else if (this.items[at].etag !== item.etag) this.items[at] = preload(item);
      else this.items[at].lease_until = item.lease_until;
    }
    return { counts, more: items.length === limit };
  }
}

function preload(item) {
  const picture = new Image();
  picture.alt = "";
  picture.decoding = "sync"; // decoded below, before it is shown
  picture.src = item.image;
  const ready = picture.decode().then(
    () => true,
    () => false,
  );
  return { ...item, picture, ready };
}

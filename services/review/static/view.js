// What the review view shows. It knows the page's elements and nothing of the network.

const TOP = 5;
export const TINY_PX = 160; // smaller pictures are enlarged with hard edges

/** The label that `approve` finds right: the one in question. */
export function preselect(item) {
  return item.reported ?? item.predicted;
}

export const find = (id) => document.getElementById(id);

export class View {
  constructor(data, choose) {
    this.labels = data.labels;
    this.words = data.words;
    this.queue = data.queue;
    this.choose = choose;
    this.main = find("main");
  }

  /** The labels behind the digit keys: the highest scores first. */
  top(item) {
    const order = this.labels.map((label, i) => ({ label, score: item.scores[i] ?? 0 }));
    return order.sort((a, b) => b.score - a.score).slice(0, TOP);
  }

  /** The label that `approve` would find right. */
  preselected(item) {
    return preselect(item);
  }

  show(item) {
    this.main.dataset.state = "item";
    find("empty").hidden = true;
    this.#showPicture(item);
    const kind = item.disputed ? this.words.disputed : this.words.kinds[item.kind];
    find("kind").textContent = item.flagged ? fill(this.words.flagged, item) : kind;
    find("ask-line").replaceChildren(...sentence(this.words.asks[item.kind], item));
    find("note").hidden = !item.note && !item.reporter;
    find("note-text").textContent = item.note ?? "";
    find("note-by").textContent = item.reporter ? fill(this.words.reportedBy, item) : "";
    find("mark").hidden = !item.mark;
    find("mark-text").textContent = item.mark ? fill(this.words.lookTwice, item) : "";
    find("approve-text").textContent = fill(this.words.approve, { label: this.preselected(item) });
    this.#showAnswers(item);
  }

  #showPicture(item) {
    const { picture } = item;
    picture.alt = this.words.pictureAlt;
    picture.classList.toggle("tiny", Math.max(picture.naturalWidth, picture.naturalHeight) < TINY_PX);
    find("stage").replaceChildren(picture);
    item.ready.then((ok) => {
      if (!picture.isConnected) return;
      picture.classList.toggle("tiny", Math.max(picture.naturalWidth, picture.naturalHeight) < TINY_PX);
      if (!ok) find("stage").replaceChildren(paragraph("gone", this.words.pictureGone));
    });
  }

  #showAnswers(item) {
    const preselected = this.preselected(item);
    const rows = this.top(item);
    const known = rows.some(({ label }) => label === preselected);
    const drawn = rows.map(({ label, score }, i) => this.#answer(item, label, score, String(i + 1)));
    if (!known) {
      const score = item.scores[this.labels.indexOf(preselected)] ?? 0;
      drawn.unshift(this.#answer(item, preselected, score, "a"));
    }
    find("answers").replaceChildren(...drawn);
  }

  #answer(item, label, score, key) {
    const row = find("answer-template").content.cloneNode(true);
    const button = row.querySelector("button");
    const chosen = label === this.preselected(item);
    const tags = [
      ...(label === item.predicted ? [tag(this.words.predicted, "")] : []),
      ...(label === item.reported ? [tag(item.kind === "suspected" ? this.words.trained : this.words.reported, "accent")] : []),
    ];
    button.classList.toggle("chosen", chosen);
    button.dataset.label = label;
    row.querySelector("kbd").textContent = key;
    row.querySelector(".answer-label").textContent = label;
    row.querySelector(".answer-tags").replaceChildren(...tags);
    row.querySelector(".answer-score").textContent = percent(score);
    row.querySelector(".answer-bar-fill").setAttribute("width", String(Math.max(score, 0) * 100));
    button.addEventListener("click", () => this.choose(label));
    return row;
  }

  showLoading() {
    this.main.dataset.state = "loading";
    find("stage").replaceChildren();
  }

  showEmpty(open) {
    this.main.dataset.state = "empty";
    find("stage").replaceChildren();
    const others = open > 0;
    find("empty").hidden = false;
    const { words, queue } = this;
    find("empty-title").textContent = others ? words.othersTitle : queue ? words.emptyQueueTitle : words.emptyTitle;
    find("empty-text").textContent = others ? fill(words.othersText, { open }) : queue ? words.emptyQueueText : words.emptyText;
  }
}

/** Fill `{name}` in a sentence of the message catalogue. */
export function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}

function sentence({ said, ask }, values) {
  const first = document.createElement("span");
  first.className = "said";
  first.append(...emphasised(said, values));
  return [first, ...emphasised(ask, values)];
}

/** The parts of a sentence, with what fills it set in <em>: labels are never read as HTML. */
function emphasised(text, values) {
  return text.split(/(\{\w+\})/).map((part) => {
    const name = /^\{(\w+)\}$/.exec(part)?.[1];
    if (!name) return part;
    const strong = document.createElement("em");
    strong.textContent = values[name];
    return strong;
  });
}

export function percent(score) {
  return `${(100 * score).toFixed(score > 0.9995 || score < 0.0005 ? 0 : 1)} %`;
}

function tag(text, tone) {
  const badge = document.createElement("span");
  badge.className = `badge ${tone}`;
  badge.textContent = text;
  return badge;
}

function paragraph(className, text) {
  const row = document.createElement("p");
  row.className = className;
  row.textContent = text;
  return row;
}

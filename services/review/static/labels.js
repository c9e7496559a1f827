// A search box over all labels (ARIA combobox with a list).

const SHOWN = 50;

export class LabelSearch {
  /** @param {(label: string) => void} choose */
  constructor(input, list, labels, choose) {
    Object.assign(this, { input, list, labels, choose, at: 0, found: [] });
    input.addEventListener("input", () => this.#open());
    input.addEventListener("focus", () => this.#open());
    input.addEventListener("blur", () => this.close());
    input.addEventListener("keydown", (event) => this.#onKey(event));
    // Before blur: a click on the list must not close it first.
    list.addEventListener("mousedown", (event) => event.preventDefault());
    list.addEventListener("click", (event) => this.#take(event.target.closest("li")?.dataset.label));
  }

  close() {
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
  }

  #open() {
    const wanted = this.input.value.trim().toLowerCase();
    const starts = this.labels.filter((label) => label.toLowerCase().startsWith(wanted));
    const holds = this.labels.filter((label) => label.toLowerCase().indexOf(wanted) > 0);
    this.found = [...starts, ...holds].slice(0, SHOWN);
    this.at = 0;
    this.list.replaceChildren(...this.found.map((label, i) => option(label, i)));
    this.list.hidden = !this.found.length;
    this.input.setAttribute("aria-expanded", String(!this.list.hidden));
    this.#mark();
  }

  #mark() {
    [...this.list.children].forEach((row, i) => row.setAttribute("aria-selected", String(i === this.at)));
    const row = this.list.children[this.at];
    if (!row) return this.input.removeAttribute("aria-activedescendant");
    this.input.setAttribute("aria-activedescendant", row.id);
    row.scrollIntoView({ block: "nearest" });
  }

  #onKey(event) {
    const moves = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key in moves && this.found.length) {
      event.preventDefault();
      this.at = (this.at + moves[event.key] + this.found.length) % this.found.length;
      this.#mark();
    } else if (event.key === "Enter") {
      event.preventDefault();
      this.#take(this.list.hidden ? undefined : this.found[this.at]);
    } else if (event.key === "Escape") {
      event.preventDefault();
      this.input.value = "";
      this.input.blur();
    }
  }

  #take(label) {
    if (label === undefined) return;
    this.input.value = "";
    this.input.blur();
    this.close();
    this.choose(label);
  }
}

function option(label, i) {
  const row = document.createElement("li");
  row.id = `label-${i}`;
  row.role = "option";
  row.dataset.label = label;
  row.textContent = label;
  return row;
}

// Single keys, which can be switched off (WCAG 2.1.4), and the list of them.

import { find } from "./view.js";

const KEYS_OFF = `backtalk.keys-off.${document.body.dataset.person}`;

/** Call `actOn(key)` for each single key that no field, dialog or button wants; it gives what to do, or nothing. */
export function listenToKeys(actOn) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const typing = event.target.closest("input:not([type=checkbox]), select, textarea, dialog");
    const pressing = [" ", "Enter"].includes(event.key) && event.target.closest("button, a, summary, [role=option]");
    if (typing || pressing || !keysOn() || event.repeat) return;
    const act = actOn(event.key, event);
    if (!act) return;
    event.preventDefault();
    act();
  });
  find("help-button").addEventListener("click", () => find("help").showModal());
  find("keys-on").addEventListener("change", switchKeys);
  restoreKeys();
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

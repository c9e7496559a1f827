// The list of queues above both views: links, which a key goes through.

import { find } from "./view.js";

/** Open the next queue (1) or the one before (-1); the last is followed by the first. */
export function goToQueue(step) {
  const links = [...find("queues").querySelectorAll("a")];
  const at = links.findIndex((link) => link.getAttribute("aria-current"));
  links[(at + step + links.length) % links.length].click();
}

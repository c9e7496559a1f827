// Swiping the picture on a touch screen: right approves, left rejects, up skips. Buttons do the same.

const FAR_PX = 72; // letting go beyond this answers
const CALM = matchMedia("(prefers-reduced-motion: reduce)");

/**
 * @param {HTMLElement} stage  whose first child follows the finger
 * @param {Record<string, string>} words  what each action is called while the finger is there
 * @param {(action: string) => void} act
 */
export function listenToSwipes(stage, words, act) {
  let start = null;

  stage.addEventListener("pointerdown", (event) => {
    // A second finger pinches: that is no swipe.
    start = event.pointerType === "touch" && event.isPrimary && stage.firstElementChild ? event : null;
    show(0, 0);
  });
  stage.addEventListener("pointermove", (event) => {
    if (event.pointerId === start?.pointerId) show(event.clientX - start.clientX, event.clientY - start.clientY);
  });
  stage.addEventListener("pointerup", (event) => {
    if (event.pointerId !== start?.pointerId) return;
    const action = actionOf(event.clientX - start.clientX, event.clientY - start.clientY);
    end();
    if (action) act(action);
  });
  stage.addEventListener("pointercancel", end); // the browser scrolls

  function end() {
    start = null;
    show(0, 0);
  }

  function show(x, y) {
    const action = actionOf(x, y);
    if (action) Object.assign(stage.dataset, { swipe: action, says: words[action] });
    else delete stage.dataset.swipe;
    const picture = stage.firstElementChild;
    if (picture && !CALM.matches) picture.style.transform = x || y ? `translate(${x}px, ${Math.min(y, 0)}px)` : "";
  }
}

function actionOf(x, y) {
  if (Math.abs(x) >= FAR_PX && Math.abs(x) > Math.abs(y)) return x > 0 ? "approve" : "reject";
  return y <= -FAR_PX && -y > Math.abs(x) ? "skip" : null;
}

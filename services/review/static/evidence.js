// Confirmations open in a dialog; without this module they are pages of their own.
const dialog = document.getElementById("ask");

document.body.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target === dialog && !dialog.open) dialog.showModal();
});
dialog?.addEventListener("click", (event) => {
  if (event.target.closest("[data-close]") || event.target === dialog) {
    event.preventDefault();
    dialog.close();
  }
});

// What somebody opened stays open when a page that asks for itself is drawn anew.
const opened = new Set();
document.addEventListener("toggle", ({ target }) => {
  if (target.id && target.isConnected) opened[target.open ? "add" : "delete"](target.id);
}, true);
document.body.addEventListener("htmx:afterSwap", () => {
  for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
});

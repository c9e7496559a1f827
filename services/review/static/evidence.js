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

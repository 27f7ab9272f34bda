// Figures that were still being computed join the others as soon as they are there.
"use strict";

const PAUSE_MS = 1000;

async function complete() {
  const response = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!response.ok) return;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  let before = document.querySelector(".board > .panel");
  for (const card of page.querySelectorAll(".board > .panel[id]")) {
    const here = document.getElementById(card.id);
    if (!here) before.after(card);
    before = here || card;
  }
  const pending = page.querySelector("[data-pending]");
  const said = document.querySelector("[data-pending]");
  if (pending) {
    said.replaceChildren(...pending.childNodes);
    setTimeout(complete, PAUSE_MS);
  } else said.remove();
}

// Without the service the page stays as it is, with its link.
window.addEventListener("unhandledrejection", (event) => event.preventDefault());
setTimeout(complete, PAUSE_MS);

// The page works without this. With it, a rating needs no new page, 1 to 5 on the keyboard rate, Enter asks.
"use strict";

const ask = document.querySelector("[data-ask]");
const box = ask.querySelector("textarea");
const button = ask.querySelector("button");

ask.addEventListener("submit", () => {
  ask.setAttribute("aria-busy", "true");
  button.textContent = _("Looking …");
  button.disabled = true;
});

// A page that comes back by the back button is as it was left: busy.
window.addEventListener("pageshow", () => {
  ask.removeAttribute("aria-busy");
  button.textContent = _("Ask");
  button.disabled = false;
});

box.addEventListener("keydown", (event) => {
  // Not while an input method still composes a character: there, Enter ends the composition.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !button.disabled) {
    event.preventDefault();
    ask.requestSubmit();
  }
});

async function rate(form, pressed) {
  const result = form.querySelector(".result");
  const buttons = [...form.querySelectorAll(".scale button")];
  const token = form.elements.form_token;
  const comment = form.elements.comment.value.trim();
  form.setAttribute("aria-busy", "true");
  let message, failed = true;
  try {
    const response = await fetch(form.dataset.rate, {
      method: "POST",
      headers: {
        "Content-Type": "application/json",
        Accept: "application/json",
        "X-Screen": "1",
        ...(token ? { "X-Form-Token": token.value } : {}),
      },
      body: JSON.stringify({
        interaction_id: form.elements.interaction_id.value,
        [pressed.name]: pressed.name === "rating" ? Number(pressed.value) : pressed.value,
        ...(comment ? { comment } : {}),
      }),
    });
    const answer = await response.json();
    failed = !response.ok;
    message = failed ? answer.detail : answer.message;
  } catch {
    message = _("Your rating did not arrive: the service does not answer. Try again.");
  }
  form.removeAttribute("aria-busy");
  form.classList.toggle("failed", failed);
  if (!failed) {
    for (const each of buttons) each.setAttribute("aria-pressed", String(each === pressed));
  }
  result.textContent = message;
}

for (const form of document.querySelectorAll("[data-rate]")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (event.submitter && !form.hasAttribute("aria-busy")) rate(form, event.submitter);
  });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || !/^[1-5]$/.test(event.key)) return;
  if (event.target.closest("input, textarea, select, [contenteditable]")) return;
  // The answer that has the focus, else the best one.
  const card = event.target.closest(".answer") || document.querySelector("[data-best]");
  const form = card && card.querySelector("[data-rate]");
  // Thumbs have no numbers.
  const pressed = form && form.querySelector(`button[name=rating][value="${event.key}"]`);
  if (pressed && !form.hasAttribute("aria-busy")) rate(form, pressed);
});

// Corrections: keys for what the forms of the page do. They count only while a correction has the focus.
"use strict";

(() => {
  const cards = [...document.querySelectorAll("[data-card]")];
  if (!cards.length) return;
  document.querySelector("[data-keys]").hidden = false;
  cards[0].focus({ preventScroll: true });

  const go = (card, step) => {
    const next = cards[cards.indexOf(card) + step];
    if (!next) return;
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "start" });
  };
  const press = (card, value) => card.querySelector(`[data-decide] button[value=${value}]`)?.click();
  const unfold = (details, then) => {
    details.open = !details.open;
    if (details.open && then) then.focus();
  };
  const keys = {
    j: (card) => go(card, 1),
    k: (card) => go(card, -1),
    a: (card) => press(card, "approved"),
    r: (card) => press(card, "rejected"),
    x: (card) => card.querySelector("[data-choose]").click(),
    e: (card) => unfold(card.querySelector("[data-edit]"), card.querySelector("textarea")),
    d: (card) => {
      const found = card.querySelector("[data-changes]");
      if (found.href) found.click();
      else unfold(found);
    },
    u: () => document.querySelector("[data-undo] button")?.click(),
    b: () => document.querySelector("#chosen button").click(),
  };

  document.addEventListener("keydown", (event) => {
    const card = event.target.closest("[data-card]");
    if (!card || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.target.matches("textarea")) {
      if (event.key === "Escape") card.focus();
      if (event.key !== "Escape") return;
    }
    if (!keys[event.key] || event.repeat) return;
    event.preventDefault();
    keys[event.key](card);
  });

  // A double press must not decide on two.
  for (const form of document.querySelectorAll("[data-decide]")) {
    form.addEventListener("submit", (event) => {
      if (document.body.dataset.sent) event.preventDefault();
      document.body.dataset.sent = "1";
    });
  }
  window.addEventListener("pageshow", () => delete document.body.dataset.sent);
})();

"use strict";
// Its style knows dark colours, by this class.
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();
const place = document.getElementById("reference");

// What Swagger UI leaves out for those who listen, or do not use a mouse: names of fields, levels of headings, and links
// inside of buttons, which do the same. It draws parts anew at any time.
const mends = [
  ["button a[href]", (link) => link.removeAttribute("href")],
  ["button [tabindex], button [role]", (part) => ["tabindex", "role"].forEach((name) => part.removeAttribute(name))],
  ["pre, .highlight-code > *, .table-container, .model-box", (part) => { part.tabIndex = 0; }],
  ["select, input, textarea", (field) => {
    const label = [...(field.labels || [])].find((each) => each.innerText.replace(field.innerText, "").trim());
    if (label || field.getAttribute("aria-label")) return;
    const row = field.closest("tr")?.querySelector(".parameter__name");
    field.setAttribute("aria-label", row?.firstChild?.textContent || field.placeholder || field.id || field.title || "Value");
  }],
  ["button:not([aria-label]):empty, button:not([aria-label]) > svg:only-child", (part) => {
    part.closest("button").setAttribute("aria-label", part.closest("button").title || "Copy");
  }],
  [".information-container, .scheme-container, .errors-wrapper", (part) => {
    part.setAttribute("role", "region");
    part.setAttribute("aria-label", part.matches(".information-container") ? "About" : part.matches(".scheme-container") ? "Servers and tokens" : "Errors");
  }],
  ["table[role=region]", (table) => table.removeAttribute("role")],
  ["label[id]:has(select)", (label) => label.removeAttribute("id")],
  ["svg:not([role])", (picture) => picture.setAttribute("aria-hidden", "true")],
];
const mend = () => {
  for (const [selector, how] of mends) place.querySelectorAll(selector).forEach(how);
  let last = 0;
  for (const heading of place.querySelectorAll("h1, h2, h3, h4, h5, h6")) {
    last = Math.min(Number(heading.tagName[1]), last + 1);
    heading.setAttribute("role", "heading");
    heading.setAttribute("aria-level", last);
  }
};
new MutationObserver(mend).observe(place, { childList: true, subtree: true });

window.SwaggerUIBundle({
  url: place.dataset.document,
  domNode: place,
  deepLinking: true,
  // Its validator of documents is an online service.
  validatorUrl: null,
});

"use strict";
const PAGE = 12; // samples shown at a time

for (const browser of document.querySelectorAll(".browser")) {
  const form = browser.querySelector("form");
  const selects = [...form.querySelectorAll("select")];
  const search = form.querySelector("[data-search]");
  const output = form.querySelector("output");
  const none = browser.querySelector(".none");
  const more = browser.querySelector(".more");
  const samples = [...browser.querySelectorAll("article")].map((element) => ({
    element,
    text: [...element.querySelectorAll("h3, pre")].map((part) => part.textContent).join(" ").toLowerCase(),
  }));
  let limit = PAGE;

  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fitting = samples.filter(
      ({ element, text }) =>
        selects.every((select) => !select.value || element.dataset[select.dataset.filter] === select.value) &&
        words.every((word) => text.includes(word)),
    );
    const shown = new Set(fitting.slice(0, limit));
    for (const sample of samples) sample.element.hidden = !shown.has(sample);
    output.textContent = `${shown.size} shown of ${fitting.length} that fit, ${samples.length} in all`;
    none.hidden = fitting.length > 0;
    more.hidden = shown.size === fitting.length;
  };
  const restart = () => {
    limit = PAGE;
    apply();
  };

  form.addEventListener("input", restart);
  form.addEventListener("reset", () => setTimeout(restart)); // the fields are empty only after this event
  form.addEventListener("submit", (event) => event.preventDefault());
  more.querySelector("button").addEventListener("click", () => {
    const before = samples.filter(({ element }) => !element.hidden).length;
    limit += PAGE;
    apply();
    const first = samples.filter(({ element }) => !element.hidden)[before];
    first.element.tabIndex = -1; // the keyboard goes on where the new ones begin
    first.element.focus();
  });
  browser.querySelector("p.note").hidden = true;
  form.hidden = false;
  apply();
}

// What has nothing to scroll is no stop for the tab key.
const regions = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});
for (const region of document.querySelectorAll(".scroll")) regions.observe(region);

// The contents say where the reader is.
const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const sections = [...document.querySelectorAll("main > section")];
const mark = () => {
  const current = sections.filter((section) => section.getBoundingClientRect().top < 120).pop() ?? sections[0];
  for (const [key, link] of links) {
    if (key === current.id) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
};
document.addEventListener("scroll", mark, { passive: true });
mark();

// Paper cannot be opened: print what is folded.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const part of folded) part.open = true;
});
addEventListener("afterprint", () => {
  for (const part of folded) part.open = false;
});

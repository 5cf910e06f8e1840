"use strict";
for (const browser of document.querySelectorAll(".browser")) {
  const form = browser.querySelector("form");
  const selects = [...form.querySelectorAll("select")];
  const search = form.querySelector("[data-search]");
  const output = form.querySelector("output");
  const none = browser.querySelector(".none");
  const samples = [...browser.querySelectorAll("article")].map((element) => ({
    element,
    text: [...element.querySelectorAll("h3, pre")].map((part) => part.textContent).join(" ").toLowerCase(),
  }));

  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const { element, text } of samples) {
      const fits =
        selects.every((select) => !select.value || element.dataset[select.dataset.filter] === select.value) &&
        words.every((word) => text.includes(word));
      element.hidden = !fits;
      shown += fits ? 1 : 0;
    }
    output.textContent = `${shown} of ${samples.length} shown`;
    none.hidden = shown > 0;
  };

  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  browser.querySelector("p.note").hidden = true;
  form.hidden = false;
  apply();
}

"use strict";
// Without this script the page shows the same figures, in the order they were written.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const isNumber = head.classList.contains("number");
      const keyOf = (row) => row.cells[column].dataset.key;
      const compare = (a, b) => {
        const [x, y] = [keyOf(a), keyOf(b)];
        if (x === "" || y === "") return (x === "") - (y === ""); // what is missing stays last
        return sign * (isNumber ? x - y : x.localeCompare(y, "en", { numeric: true }));
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}
// A run lights up wherever it is; its name appears at once, where a browser's own title takes a second.
const hover = document.createElement("div");
hover.id = "hover";
hover.hidden = true;
document.body.append(hover);
let lit = [];
const light = (run) => {
  for (const element of lit) element.classList.remove("lit");
  lit = run === null ? [] : [...document.querySelectorAll(`[data-run="${CSS.escape(run)}"]`)];
  for (const element of lit) element.classList.add("lit");
};
for (const point of document.querySelectorAll("g.run")) {
  const title = point.querySelector("title");
  const text = title.textContent;
  point.setAttribute("aria-label", text);
  title.remove();
  point.addEventListener("mouseenter", (event) => {
    light(point.dataset.run);
    hover.textContent = text;
    hover.hidden = false;
    const right = event.clientX + 14 + hover.offsetWidth > innerWidth;
    hover.style.left = `${right ? Math.max(4, event.clientX - 14 - hover.offsetWidth) : event.clientX + 14}px`;
    hover.style.top = `${Math.min(event.clientY + 12, innerHeight - hover.offsetHeight - 4)}px`;
  });
  point.addEventListener("mouseleave", () => {
    light(null);
    hover.hidden = true;
  });
}
for (const row of document.querySelectorAll("tr[data-run]")) {
  row.addEventListener("mouseenter", () => light(row.dataset.run));
  row.addEventListener("mouseleave", () => light(null));
}
// Paper cannot be opened. A browser that knows `::details-content` prints what is closed without this.
const opened = [];
addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details:not(.screen):not([open])")) {
    each.open = true;
    opened.push(each);
  }
});
addEventListener("afterprint", () => {
  for (const each of opened.splice(0)) each.open = false;
});

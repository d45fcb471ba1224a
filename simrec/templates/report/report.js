"use strict";
const tables = [...document.querySelectorAll("table")];
const [bar, column, order, look] = ["bar", "column", "order", "look"].map((id) => document.getElementById(id));
const compareTexts = new Intl.Collator(undefined, { numeric: true }).compare;

function keyOf(row, name) {
  const cell = [...row.cells].find((one) => one.dataset.name === name);
  if (!cell || cell.classList.contains("empty")) return null;
  return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent;
}

function compare(a, b) {
  return typeof a === "number" && typeof b === "number" ? a - b : compareTexts(String(a), String(b));
}

// Rows without a value come last, whichever way the others are sorted.
function sort() {
  const [name, sign] = [column.value, order.value === "down" ? -1 : 1];
  for (const table of tables) {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [keyOf(row, name), row]);
    rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b)));
    for (const [, row] of rows) body.appendChild(row);
    for (const head of table.tHead.querySelectorAll("th[data-name]")) {
      const direction = sign > 0 ? "ascending" : "descending";
      head.setAttribute("aria-sort", head.dataset.name === name ? direction : "none");
    }
  }
}

for (const head of document.querySelectorAll("th[data-name]")) {
  const name = head.dataset.name;
  if (![...column.options].some((option) => option.value === name)) column.add(new Option(name, name));
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = name;
  button.addEventListener("click", () => {
    order.value = column.value === name && order.value === "up" ? "down" : "up";
    column.value = name;
    sort();
  });
  head.replaceChildren(button);
}
column.addEventListener("change", sort);
order.addEventListener("change", sort);
look.addEventListener("change", () => {
  document.body.className = look.value;
});
look.value = "cards";
order.value = "up";
bar.hidden = !tables.length;
if (tables.length) sort();

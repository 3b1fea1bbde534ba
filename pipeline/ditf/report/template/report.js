"use strict";

// A click on a column's title sorts its table, numbers first by size, and again the other way round.
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") === "descending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => value(a).localeCompare(value(b), "en", { numeric: true }));
    const numbers = rows.filter((row) => row.cells[column].dataset.value !== undefined);
    numbers.sort((a, b) => value(a) - value(b));
    const others = rows.filter((row) => !numbers.includes(row));
    if (!up) { numbers.reverse(); others.reverse(); }
    table.tBodies[0].append(...numbers, ...others);
  }));
}

for (const input of document.querySelectorAll("input[type=search]")) {
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    for (const row of input.nextElementSibling.querySelector("tbody").rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
    }
  });
}

// What is folded is printed, too.
addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details")) each.open = true;
});

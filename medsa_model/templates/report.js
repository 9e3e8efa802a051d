// Sort a table by the column whose heading is pressed; numbers first from high to low.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const key = (row) => row.cells[column].dataset.sort;
      const text = (row) => row.cells[column].textContent.trim();
      const numeric = [...body.rows].some((row) => key(row) !== undefined);
      const before = heading.getAttribute("aria-sort");
      const down = before ? before === "ascending" : numeric;
      const order = (one, other) => {
        if (!numeric) return text(one).localeCompare(text(other), undefined, { numeric: true });
        return Number(key(one)) - Number(key(other));
      };
      const missing = (row) => numeric && key(row) === undefined;
      const rows = [...body.rows].sort((one, other) =>
        missing(one) - missing(other) || (missing(one) ? 0 : order(one, other) * (down ? -1 : 1)));
      headings.forEach((each) => each.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...rows);
    });
  });
}
// What is folded on the screen is printed too.
window.addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});

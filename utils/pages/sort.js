// A click on a column's head sorts the table's rows: upwards, downwards, as they came.
const shown = (row, column) => { // but for the small lines
  const cell = row.cells[column].cloneNode(true);
  cell.querySelectorAll("small").forEach((line) => line.remove());
  return cell.textContent.trim();
};
const missing = (text) => text === "" || text === "–";

for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells], rows = [...body.rows];
  if (rows.length < 2) continue;
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    if (!button.textContent) button.setAttribute("aria-label", "column " + (column + 1));
    head.append(button);
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const next = { ascending: "descending", descending: "none" }[now] ?? "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      table.classList.toggle("sorted", next !== "none");
      if (next === "none") return body.append(...rows);
      head.setAttribute("aria-sort", next);
      const keys = new Map(rows.map((row) => [row, shown(row, column)]));
      const known = [...keys.values()].filter((text) => !missing(text));
      const numbers = known.every((text) => /^[+-]?\.?\d/.test(text));
      const sign = next === "ascending" ? 1 : -1;
      body.append(...[...rows].sort((a, b) => {
        const x = keys.get(a), y = keys.get(b);
        if (missing(x) || missing(y)) return missing(x) - missing(y); // last either way
        return sign * (numbers ? parseFloat(x) - parseFloat(y) : x.localeCompare(y));
      }));
    });
  });
}

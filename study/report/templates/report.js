"use strict";
// The page is whole without this script. It sorts and filters tables, and makes the values of a figure quicker to
// reach. It sends nothing and keeps nothing.

const FILTER_FROM = 9; // rows; a shorter table is seen at once
const REACH = 30; // CSS pixels around a spot
const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

// What a cell is ordered by: a number where it has one, else its text; "--" is nothing, and always comes last.
function keyOf(row, column) {
  const cell = row.cells[column];
  if (cell.dataset.sort !== undefined) return { kind: 0, value: Number(cell.dataset.sort) };
  const text = cell.textContent.trim();
  return { kind: text === "" || text === "--" ? 2 : 1, value: text };
}

function compareKeys(one, other, sign) {
  if (one.kind === 2 || other.kind === 2) return one.kind - other.kind;
  if (one.kind !== other.kind) return sign * (one.kind - other.kind);
  return sign * (one.kind === 0 ? one.value - other.value : collator.compare(one.value, other.value));
}

// A click sorts with the better end first, the next one the other way round, the third restores the order.
function makeSortable(table) {
  const headings = [...table.tHead.rows[0].cells];
  const original = [...table.tBodies[0].rows];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    const first = heading.dataset.first === "descending" ? -1 : 1;
    heading.addEventListener("click", () => { // which the button's own clicks, also by keyboard, rise to
      const state = { ascending: 1, descending: -1 }[heading.getAttribute("aria-sort")] ?? 0;
      const sign = state === 0 ? first : state === first ? -first : 0;
      for (const other of headings) other.removeAttribute("aria-sort");
      let rows = original;
      if (sign !== 0) {
        heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
        const keys = new Map(original.map((row) => [row, keyOf(row, column)]));
        rows = [...original].sort((one, other) => compareKeys(keys.get(one), keys.get(other), sign));
      }
      table.tBodies[0].append(...rows);
    });
  });
}

// Rows that hold every word stay.
function makeFilterable(table) {
  const rows = [...table.tBodies[0].rows];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const bar = document.createElement("p");
  bar.className = "filter";
  const input = document.createElement("input");
  input.type = "search";
  input.placeholder = "Filter rows";
  input.setAttribute("aria-labelledby", table.getAttribute("aria-labelledby"));
  const count = document.createElement("output");
  count.textContent = `${rows.length} rows`;
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, k) => {
      row.hidden = !words.every((word) => texts[k].includes(word));
      if (!row.hidden) shown += 1;
    });
    count.textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
  });
  bar.append(input, count);
  table.closest(".scroll").before(bar);
}

// The spot nearest to the pointer shows its values; the keyboard enters a figure once, and arrow keys go on in it.
function makeReachable(plot) {
  const spots = [...plot.querySelectorAll(".spot")];
  if (spots.length === 0) return;
  plot.classList.add("live");
  spots.forEach((spot, k) => (spot.tabIndex = k === 0 ? 0 : -1));
  const point = (chosen) => spots.forEach((spot) => spot.classList.toggle("on", spot === chosen));
  const nearest = (event) => {
    let best = null;
    let distance = REACH;
    for (const spot of spots) {
      const box = spot.getBoundingClientRect();
      const away = Math.hypot(
        event.clientX - (box.left + box.right) / 2,
        event.clientY - (box.top + box.bottom) / 2,
      );
      if (away < distance) [best, distance] = [spot, away];
    }
    point(best);
  };
  plot.addEventListener("pointermove", nearest);
  plot.addEventListener("pointerdown", nearest);
  plot.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && point(null));
  plot.addEventListener("focusin", (event) => {
    point(event.target);
    spots.forEach((spot) => (spot.tabIndex = spot === event.target ? 0 : -1));
  });
  plot.addEventListener("focusout", () => point(null));
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      const at = spots.indexOf(document.activeElement);
      spots[(at + step + spots.length) % spots.length].focus();
    } else if (event.key === "Escape") point(null);
  });
}

for (const table of document.querySelectorAll("table.data")) {
  const count = table.tBodies[0].rows.length;
  if (count > 1) makeSortable(table);
  if (count >= FILTER_FROM) makeFilterable(table);
}
document.querySelectorAll(".plot").forEach(makeReachable);

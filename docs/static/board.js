"use strict";

/* Filters and sorts the board. What is chosen stands in the address, so that it can be shared. */
document.addEventListener("DOMContentLoaded", () => {
  const board = document.getElementById("board");
  if (!board) return;
  const form = board.querySelector("form");
  const body = board.querySelector("tbody");
  const rows = Array.from(body.rows);
  const names = ["search", "field", "kind", "verdict", "power"];
  const numbers = ["effect", "cost", "power", "year"];
  const asked = new URLSearchParams(location.search);

  const matches = (row) => {
    const chosen = Object.fromEntries(names.map((name) => [name, form.elements[name].value]));
    return (
      chosen.search.toLowerCase().split(/\s+/).every((word) => row.dataset.text.includes(word)) &&
      (!chosen.field || row.dataset.field === chosen.field) &&
      (!chosen.kind || row.dataset.kind.split(" ").includes(chosen.kind)) &&
      (!chosen.verdict || row.dataset.verdict === chosen.verdict) &&
      (!chosen.power || row.dataset.decided === chosen.power)
    );
  };

  const value = (row, key) => {
    const text = row.dataset[key];
    if (!numbers.includes(key)) return text;
    return text === "" ? NaN : Number(text);
  };

  const sort = (key, down) => {
    const order = (a, b) => {
      const one = value(a, key);
      const other = value(b, key);
      if (Number.isNaN(one) || Number.isNaN(other)) return Number.isNaN(one) - Number.isNaN(other);
      const by = one < other ? -1 : one > other ? 1 : 0;
      return down ? -by : by;
    };
    body.append(...rows.sort(order));
    board.querySelectorAll("th").forEach((head) => {
      const mine = head.querySelector("button").dataset.sort === key;
      head.setAttribute("aria-sort", mine ? (down ? "descending" : "ascending") : "none");
    });
  };

  const show = () => {
    let count = 0;
    rows.forEach((row) => {
      row.hidden = !matches(row);
      count += !row.hidden;
    });
    form.querySelector(".shown").textContent = `${count} of ${rows.length}`;
  };

  const remember = (changes) => {
    Object.entries(changes).forEach(([name, text]) => (text ? asked.set(name, text) : asked.delete(name)));
    const words = asked.toString();
    try {
      history.replaceState(null, "", words ? `?${words}` : location.pathname);
    } catch {
      /* some browsers keep the address of a local file as it is */
    }
  };

  names.forEach((name) => {
    const element = form.elements[name];
    if (asked.has(name)) element.value = asked.get(name);
    if (element.selectedIndex < 0) element.value = "";
    element.addEventListener("input", () => {
      remember({ [name]: element.value });
      show();
    });
  });
  board.querySelectorAll("button[data-sort]").forEach((button) =>
    button.addEventListener("click", () => {
      const key = button.dataset.sort;
      const before = button.closest("th").getAttribute("aria-sort");
      const down = before === "none" ? numbers.includes(key) : before === "ascending";
      sort(key, down);
      remember({ sort: key, down: down ? "1" : "" });
    }),
  );
  if (asked.has("sort")) sort(asked.get("sort"), asked.get("down") === "1");
  show();
});

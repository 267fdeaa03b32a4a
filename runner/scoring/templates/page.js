"use strict";

// the list of sections
for (const heading of document.querySelectorAll("section[id] > h2")) {
  const link = document.createElement("a");
  link.href = "#" + heading.parentElement.id;
  link.textContent = heading.textContent;
  document.querySelector("nav").append(link);
}

// the slider over the iterations: each image has a tile of every iteration, of which one is shown
const slider = document.getElementById("step");
if (slider) {
  const steps = JSON.parse(slider.dataset.steps);
  slider.addEventListener("input", () => {
    const step = steps[slider.value];
    slider.parentElement.querySelector("output").textContent = step;
    for (const figure of document.querySelectorAll(".tiles figure")) {
      const tiles = [...figure.querySelectorAll("img[data-step]")];
      // an image that was not looked at then stays as it was
      if (tiles.some((tile) => tile.dataset.step == step)) {
        for (const tile of tiles) tile.hidden = tile.dataset.step != step;
      }
    }
  });
}
for (const card of document.querySelectorAll(".card")) {
  card.addEventListener("click", () => card.classList.toggle("large"));
}

addEventListener("beforeprint", () => {
  for (const picture of document.querySelectorAll(".thumbnails img")) picture.loading = "eager";
});

// the values of a chart under the pointer
for (const chart of document.querySelectorAll(".chart")) {
  const { over, low, high, left, right, series } = JSON.parse(chart.querySelector("script").textContent);
  const svg = chart.querySelector("svg");
  const line = svg.querySelector(".pointer");
  const outputs = chart.querySelectorAll(".legend output");
  const at = chart.querySelector(".at");
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const wanted = low + ((place - left) / (right - left)) * (high - low);
    const nearest = series.map(([, points]) =>
      points.reduce((best, point) => (Math.abs(point[0] - wanted) < Math.abs(best[0] - wanted) ? point : best)));
    const x = nearest.reduce((best, point) => (Math.abs(point[0] - wanted) < Math.abs(best[0] - wanted) ? point : best))[0];
    const drawn = left + ((x - low) / (high - low)) * (right - left);
    line.setAttribute("d", `M${drawn},${line.dataset.top}V${line.dataset.bottom}`);
    at.textContent = `${over} ${Math.round(x * 100) / 100}`;
    nearest.forEach((point, index) => { outputs[index].textContent = point[1]; });
  });
  svg.addEventListener("pointerleave", () => {
    line.setAttribute("d", "");
    for (const output of [at, ...outputs]) output.textContent = "";
  });
}

// tables that are sorted by a click on a column's title
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => {
    const text = row.cells[column].textContent.trim();
    return Number.isNaN(parseFloat(text)) ? text : parseFloat(text);
  };
  heads.forEach((head, column) => {
    if (!head.textContent.trim()) return;
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const rising = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows].sort((one, other) => {
        const [a, b] = [value(one, column), value(other, column)];
        const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
        return rising ? order : -order;
      });
      table.tBodies[0].append(...rows);
    });
  });
}

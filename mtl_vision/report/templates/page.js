"use strict";
for (const slider of document.querySelectorAll(".slide input")) {
  const tiles = slider.closest(".viewer").querySelector(".tiles");
  const show = () => {
    const at = Number(slider.value);
    tiles.style.setProperty("--seen", Math.min(at, 100) + "%");
    tiles.style.setProperty("--known", Math.max(at - 100, 0) + "%");
  };
  slider.addEventListener("input", show);
  show();
}
const choice = document.getElementById("run");
if (choice) {
  const choose = () => {
    for (const img of document.querySelectorAll(".prediction")) {
      img.hidden = img.dataset.run !== choice.value;
    }
  };
  choice.addEventListener("change", choose);
  choose();
}
for (const figure of document.querySelectorAll(".chart")) {
  const svg = figure.querySelector("svg"), out = figure.querySelector("output");
  const cursor = svg.querySelector(".cursor");
  const lines = [...svg.querySelectorAll("polyline")].map(
    (line) => [line.dataset.name, JSON.parse(line.dataset.values)]);
  svg.addEventListener("pointermove", (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(
      svg.getScreenCTM().inverse());
    const near = lines.map(([name, values]) => [name, values.reduce(
      (a, b) => (Math.abs(b[0] - point.x) < Math.abs(a[0] - point.x) ? b : a))]);
    cursor.setAttribute("x1", near[0][1][0]);
    cursor.setAttribute("x2", near[0][1][0]);
    out.textContent = near.map(([name, value]) => (lines.length > 1 ? name + " " : "") +
      value[3].toPrecision(4) + " at " + value[2]).join("; ");
  });
  svg.addEventListener("pointerleave", () => {
    cursor.setAttribute("x1", -9);
    cursor.setAttribute("x2", -9);
    out.textContent = "";
  });
}

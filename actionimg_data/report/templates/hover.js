"use strict";
// What a curve or a bar says where one points at it: the drawing carries its scale, and its own points are the values.
for (const svg of document.querySelectorAll("svg.plot[data-axes]")) {
  const [left, top, right, bottom, first, last, low, high] = svg.dataset.axes.split(" ").map(Number);
  const bars = svg.dataset.bars?.split(";").map((bar) => bar.split(" ").map(Number));
  const curves = [...svg.querySelectorAll('[id*="-curve-"]')].map((group) => ({
    colour: group.id.split("-").pop(),
    points: (group.querySelector("path")?.getAttribute("d") || "").split(/(?=[ML])/).map((part) => [part[0] === "M", ...part.slice(1).trim().split(/\s+/).map(Number)]),
  }));
  const box = svg.viewBox.baseVal;
  const draw = (tag, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    svg.append(node);
    return node;
  };
  let cursor = null;
  const says = document.createElement("span");
  says.className = "says";
  svg.closest("figure")?.querySelector("figcaption")?.append(says);
  const shown = (value) => (Math.abs(value) >= 1000 ? value.toFixed(0) : value.toPrecision(3)).replace("-", "\u2212");
  // Between two points of a curve; where it has a gap there is nothing.
  const at = (points, x) => {
    for (let i = 1; i < points.length; i += 1) {
      const [gap, u, v] = points[i];
      const [, a, b] = points[i - 1];
      if (!gap && a <= x && x <= u) return u === a ? v : b + ((v - b) * (x - a)) / (u - a);
    }
    return null;
  };
  const leave = () => {
    cursor?.setAttribute("visibility", "hidden");
    says.textContent = "";
  };
  svg.addEventListener("pointermove", (event) => {
    const place = svg.getBoundingClientRect();
    const x = ((event.clientX - place.left) / place.width) * box.width;
    if (x < left || x > right) {
      leave();
      return;
    }
    cursor ||= draw("line", { y1: top, y2: bottom, class: "cursor" });
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.setAttribute("visibility", "visible");
    const value = first + ((x - left) / (right - left)) * (last - first);
    const parts = [];
    if (bars) {
      const bar = bars.find(([a, b]) => a <= value && value <= b);
      if (bar) parts.push(["", `${shown(bar[0])} to ${shown(bar[1])}: ${bar[2]}`]);
    } else {
      parts.push(["", shown(value)]);
      for (const { colour, points } of curves) {
        const y = at(points, x);
        if (y !== null) parts.push([colour, shown(high - ((y - top) / (bottom - top)) * (high - low))]);
      }
    }
    says.replaceChildren(...parts.map(([colour, text]) => {
      const part = document.createElement("span");
      part.className = colour;
      part.textContent = text;
      return part;
    }));
  });
  svg.addEventListener("pointerleave", leave);
}

// Curves over the frames of a sample, with the slider's place in them; pointing at one says its values.

import { fixed, h, s } from "./dom.js";

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [420, 132, 40, 6, 8, 18];

function ticks(low, high) {
  const rough = (high - low) / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((v) => v >= rough) || rough;
  const found = [];
  for (let v = Math.ceil(low / step) * step; v <= high + 1e-9 * step; v += step) found.push(v);
  return [found, Math.max(0, Math.min(3, Math.ceil(-Math.log10(step) - 1e-9)))];
}

export class Curves {
  constructor(frames, seek) {
    Object.assign(this, { frames, seek });
    this.charts = [];
    this.node = h("div", { class: "charts" });
  }

  // series: [{name, colour, values}]; values may hold nulls.
  add({ title, unit, series, limits, digits = 2 }) {
    const known = series.flatMap((one) => one.values.filter((v) => v !== null && v !== undefined));
    if (!known.length) return;
    let [low, high] = limits || [known.reduce((a, b) => Math.min(a, b)), known.reduce((a, b) => Math.max(a, b))];
    if (high - low < 1e-9) [low, high] = [low - 0.5 * Math.max(1e-3, Math.abs(low)), high + 0.5 * Math.max(1e-3, Math.abs(high))];
    const pad = 0.06 * (high - low);
    [low, high] = [low - pad, high + pad];
    const x = (frame) => LEFT + (frame / Math.max(1, this.frames - 1)) * (WIDTH - LEFT - RIGHT);
    const y = (value) => TOP + ((high - value) / (high - low)) * (HEIGHT - TOP - BOTTOM);
    const [marks, places] = ticks(low, high);
    const svg = s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "chart", role: "img", "aria-label": `${title}, ${unit}, over the frames` });
    for (const mark of marks) {
      svg.append(s("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(mark), y2: y(mark), class: "rule" }),
        s("text", { x: LEFT - 5, y: y(mark) + 3.5, class: "tick end" }, fixed(mark, places)));
    }
    const [across] = ticks(0, Math.max(1, this.frames - 1));
    for (const mark of across) if (Number.isInteger(mark)) svg.append(s("text", { x: x(mark), y: HEIGHT - 4, class: "tick" }, mark));
    const dots = [];
    for (const one of series) {
      let path = "";
      let pen = false;
      one.values.forEach((value, frame) => {
        if (value === null || value === undefined) { pen = false; return; }
        path += `${pen ? "L" : "M"}${x(frame).toFixed(1)} ${y(value).toFixed(1)}`;
        if (!pen && (one.values[frame + 1] === null || one.values[frame + 1] === undefined)) path += "h0.01";
        pen = true;
      });
      svg.append(s("path", { d: path, class: `curve ${one.colour}` }));
      const dot = s("circle", { r: 3, class: `dot ${one.colour}` });
      dots.push([dot, one]);
    }
    const cursor = s("line", { y1: TOP, y2: HEIGHT - BOTTOM, class: "cursor" });
    svg.append(cursor, ...dots.map(([dot]) => dot));
    const values = h("span", { class: "values" });
    const show = (frame) => {
      cursor.setAttribute("x1", x(frame));
      cursor.setAttribute("x2", x(frame));
      for (const [dot, one] of dots) {
        const value = one.values[frame];
        dot.style.display = value === null || value === undefined ? "none" : "";
        if (value === null || value === undefined) continue;
        dot.setAttribute("cx", x(frame));
        dot.setAttribute("cy", y(value));
      }
      values.replaceChildren(...series.map((one) => h("span", { class: one.colour }, series.length > 1 ? `${one.name} ` : "", fixed(one.values[frame], digits))));
    };
    const frameAt = (event) => {
      const box = svg.getBoundingClientRect();
      const share = (((event.clientX - box.left) / box.width) * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT);
      return Math.max(0, Math.min(this.frames - 1, Math.round(share * (this.frames - 1))));
    };
    svg.addEventListener("pointermove", (event) => {
      if (event.buttons) this.seek(frameAt(event));
      else show(frameAt(event));
    });
    svg.addEventListener("pointerdown", (event) => this.seek(frameAt(event)));
    svg.addEventListener("pointerleave", () => show(this.at || 0));
    this.charts.push(show);
    this.node.append(h("figure", {}, h("figcaption", {}, title, h("small", {}, unit), values), svg));
    show(this.at || 0);
  }

  draw(frame) {
    this.at = frame;
    for (const show of this.charts) show(frame);
  }
}

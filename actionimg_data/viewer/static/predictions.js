// What a model made of samples: the worst first, each over its pictures beside the truth.

import { Curves } from "./curves.js";
import { copyButton, count, fixed, h, percent, problem, read } from "./dom.js";
import { Player } from "./player.js";

const PAGE = 48;

export class PredictionsPage {
  constructor(root) {
    this.root = root;
  }

  async open() {
    document.title = "Predictions · actionimg view";
    this.list = h("div", { class: "cards", role: "list" });
    this.more = h("div", {});
    this.head = h("div", {});
    this.root.replaceChildren(h("div", { class: "page" }, h("h1", {}, "Predictions"), this.head, this.list, this.more));
    try {
      const run = await read("api/evaluation");
      const tile = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
      this.head.append(h("p", { class: "note" }, `${count(run.predictions)} of ${run.run}; the worst first: by the share of frames within 10 mm and 5°, then by the error.`),
        h("dl", { class: "tiles" }, tile("within 10 mm, 5°", percent(run.success["10mm_5deg"])), tile("median, mm", fixed(run.position_error_mm.median)),
          tile("median, °", fixed(run.rotation_error_deg.median)), tile("gripper right", percent(run.gripper.accuracy)), tile("decoded", percent(run.valid_fraction))));
    } catch (error) {
      this.head.append(problem(error));
      return;
    }
    await this.load(0);
  }

  close() {
    this.asked = null;
  }

  async load(start) {
    const words = document.getElementById("search").value;
    this.asked = words;
    const found = await read(`api/predictions?${new URLSearchParams({ q: words, start, count: PAGE })}`).catch((error) => ({ error }));
    if (this.asked !== words) return;
    if (found.error) {
      this.list.replaceChildren(problem(found.error));
      return;
    }
    if (!start) this.list.replaceChildren();
    this.list.append(...found.rows.map((row) => h("a", { class: "card", role: "listitem", href: `#/prediction/${row.line}` },
      h("img", { src: `prediction/${row.line}/picture`, loading: "lazy", alt: "", onerror: (event) => event.target.remove() }),
      h("h3", {}, `${percent(row.success)} right`), h("p", {}, `${fixed(row.position_mm)} mm · ${fixed(row.rotation_deg)}° · ${percent(row.valid)} decoded`),
      h("p", { class: "mono" }, row.key))));
    const left = found.total - start - found.rows.length;
    this.more.replaceChildren(...(left > 0 ? [h("button", { type: "button", onclick: () => this.load(start + PAGE) }, `Show more (${count(left)} left)`)] : []));
  }

  searched() {
    this.load(0);
  }

  key() {
    return false;
  }
}

export class PredictionPage {
  constructor(root) {
    this.root = root;
  }

  async open(line) {
    this.root.replaceChildren(h("p", { class: "note wait" }, "Drawing the prediction…"));
    this.abort = new AbortController();
    let one;
    try {
      one = await read(`api/prediction/${line}`, this.abort.signal);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.root.replaceChildren(h("div", { class: "page" }, problem(error)));
      return;
    }
    document.title = `Prediction ${line} · actionimg view`;
    const { curves } = one;
    const frames = Math.max(1, curves.trust.length);
    const video = h("video", { muted: true, playsInline: true, preload: "auto", src: `prediction/${line}/video`, class: "prediction" });
    video.setAttribute("aria-label", "Prediction over the picture, truth over it, and the axes of both");
    const box = h("div", { class: "predicted" }, video);
    video.addEventListener("error", async () => {
      const said = await read(`prediction/${line}/video`).catch((error) => error);
      box.replaceChildren(problem(said instanceof Error ? said : new Error("The video cannot be played.")));
    });
    this.curves = new Curves(frames, (frame) => { this.player.pause(); this.player.seek(frame); });
    this.player = new Player({ videos: [video], frames, fps: one.fps, draw: (frame) => this.curves.draw(frame) });
    const add = (title, unit, series, more) => this.curves.add({ title, unit, series, ...more });
    add("position error", "mm", [{ name: "", colour: "red", values: curves.position_mm }]);
    add("rotation error", "°", [{ name: "", colour: "green", values: curves.rotation_deg }]);
    add("trust", "probability of being right", [{ name: "", colour: "blue", values: curves.trust }], { limits: [0, 1] });
    add("openness", "true, predicted", [{ name: "true", colour: "accent", values: curves.openness_true }, { name: "predicted", colour: "red", values: curves.openness }], { limits: [0, 1], digits: 0 });
    this.root.replaceChildren(h("div", { class: "page sample" }, h("div", { class: "crumbs" }, h("a", { class: "back", href: "#/predictions" }, "← all predictions")),
      h("h1", {}, `${percent(one.success)} of its frames are right`),
      h("p", { class: "meta" }, h("span", { class: "mono" }, one.key), copyButton("Copy key", one.key, "the key"),
        h("span", {}, `from frame ${one.start}, every ${one.stride}, ${one.frames} frames`), h("span", {}, `${fixed(one.position_mm)} mm, ${fixed(one.rotation_deg)}° in the median`)),
      box, h("div", { class: "dock" }, this.player.node), h("h2", {}, "Curves"), this.curves.node));
    this.player.seek(0);
  }

  close() {
    this.abort?.abort();
    this.player?.close();
    this.player = null;
  }

  key(event) {
    if (event.key === "Escape") {
      location.hash = "#/predictions";
      return true;
    }
    return this.player ? this.player.key(event) : false;
  }
}

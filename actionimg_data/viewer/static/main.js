// The page: its address says what is shown. The filter is in the query, the place in the fragment.

import { count, fixed, h, problem, read, say } from "./dom.js";
import { change, current, form, sorting } from "./filters.js";
import { Grid } from "./grid.js";
import { PredictionPage, PredictionsPage } from "./predictions.js";
import { QuarantinePage } from "./quarantine.js";
import { SamplePage } from "./sample.js";

const main = document.getElementById("main");
const search = document.getElementById("search");
let data = null;
let page = null;

class SamplesPage {
  async open() {
    document.title = `${data.name} · actionimg view`;
    this.view = current().get("view") || sessionStorage.getItem("thumbnails") || data.views[0];
    if (!data.views.includes(this.view)) this.view = data.views[0];
    this.grid = new Grid({
      load: (start, number) => this.load(start, number), make: () => this.make(), fill: (tile, row) => this.fill(tile, row),
      caption: 50, least: innerWidth < 640 ? 150 : 208, aspect: Math.min(1, data.height / data.width), label: "Samples",
    });
    this.facets = SamplesPage.facets || null;
    this.status = h("p", { class: "status", role: "status" });
    this.side = h("details", { class: "side", open: innerWidth >= 900 }, h("summary", {}, "Filter"), h("div", {}));
    this.top = h("div", { class: "gridtop" });
    main.replaceChildren(h("div", { class: "browse" }, this.side, h("div", { class: "gridside" }, this.top, this.grid.node)));
    this.filtered = () => this.again();
    addEventListener("filter", this.filtered);
    await this.again(true);
    if (!this.facets) {
      this.facets = SamplesPage.facets = await read("api/facets").catch(() => null);
      if (page === this) this.form();
    }
  }

  close() {
    removeEventListener("filter", this.filtered);
    SamplesPage.left = { search: location.search, top: this.grid.top() };
    this.grid.close();
  }

  parameters() {
    return current();
  }

  async load(start, number) {
    const parameters = this.parameters();
    parameters.set("start", start);
    parameters.set("count", number);
    return read(`api/rows?${parameters}`);
  }

  async again(opened = false) {
    const at = location.search;
    try {
      const first = await this.grid.reset();
      if (!first || at !== location.search) return;
      this.expression = first.expression;
      this.status.textContent = first.total === first.of ? `${count(first.of)} ${first.of === 1 ? "sample" : "samples"}` : `${count(first.total)} of ${count(first.of)} samples`;
      this.nothing(first.total === 0);
      const left = SamplesPage.left;
      if (opened && left && left.search === location.search && left.top) {
        this.grid.go(left.top);
        this.grid.resized();
      }
    } catch (error) {
      this.expression = "";
      this.status.replaceChildren(problem(error));
    }
    this.form();
  }

  nothing(empty) {
    this.empty?.remove();
    if (!empty) return;
    this.empty = h("p", { class: "note none" }, data.samples ? "No sample fits the filter." : "No demonstration could be converted.");
    this.grid.node.prepend(this.empty);
  }

  form() {
    // Whoever types in the form keeps his place.
    const held = this.side.contains(document.activeElement) ? document.activeElement : null;
    const name = held?.name;
    this.side.lastChild.replaceChildren(form(this.facets, this.expression));
    if (name) this.side.querySelector(`[name="${CSS.escape(name)}"]`)?.focus();
    const views = data.views.length > 1 && h("label", { class: "chosen" }, "view", h("select", { id: "thumbnails", onchange: (event) => {
      this.view = event.target.value;
      sessionStorage.setItem("thumbnails", this.view);
      for (const tile of this.grid.tiles.values()) if (tile.row) this.fill(tile, tile.row);
    } }, data.views.map((view) => h("option", { value: view, selected: view === this.view }, view))));
    this.top.replaceChildren(this.status, h("div", { class: "gridtools" }, views, sorting()));
  }

  make() {
    const picture = h("img", { alt: "", decoding: "async" });
    const box = h("span", { class: "pic" }, picture);
    const words = h("b", {});
    const about = h("small", {});
    const tile = h("a", { class: "tile", role: "listitem" }, box, h("span", { class: "cap" }, words, about));
    let waiting = 0;
    let video = null;
    const stop = () => {
      clearTimeout(waiting);
      if (!video) return;
      video.pause();
      video.removeAttribute("src");
      video.load();
      video.remove();
      video = null;
    };
    const start = () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        if (!tile.row || video || !tile.isConnected) return;
        video = h("video", { muted: true, loop: true, playsInline: true, src: `member/${tile.row.number}/${this.shown(tile.row)}.rgb.mp4`, "aria-hidden": "true" });
        box.append(video);
        video.play().catch(() => {});
      }, 180);
    };
    tile.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") start(); });
    tile.addEventListener("pointerleave", stop);
    tile.addEventListener("focus", start);
    tile.addEventListener("blur", stop);
    picture.addEventListener("error", () => { if (picture.getAttribute("src")) box.classList.add("broken"); });
    picture.addEventListener("load", () => box.classList.add("here"));
    tile.clear = () => { stop(); picture.removeAttribute("src"); box.classList.remove("broken", "here"); };
    tile.parts = { picture, box, words, about };
    return tile;
  }

  // The chosen view, or the first of a sample that has it not.
  shown(row) {
    return row.views.includes(this.view) ? this.view : row.views[0];
  }

  fill(tile, row) {
    const { picture, box, words, about } = tile.parts;
    box.style.aspectRatio = `${data.width} / ${Math.min(data.height, data.width)}`;
    box.classList.remove("broken", "here");
    picture.src = `thumb/${row.number}/${this.shown(row)}`;
    words.textContent = row.instruction;
    tile.href = `#/sample/${row.number}?at=${tile.index}`;
    tile.title = `${row.instruction}\n${row.key}`;
    const parts = [`${row.frames} frames`];
    if (row.decode_position_p95_mm !== null) parts.push(`${fixed(row.decode_position_p95_mm)} mm`);
    if (row.undecodable_frames) parts.push(`${row.undecodable_frames} undecodable`);
    about.replaceChildren(parts.join(" · "), ...row.off.map((view) => h("i", { class: "flag" }, `${view} off`)), ...row.findings.map((kind) => h("i", { class: "flag" }, kind)));
    tile.setAttribute("aria-label", `${row.instruction}, ${row.key}, ${parts.join(", ")}`);
  }

  searched() {
    const parameters = current();
    parameters.delete("q");
    if (search.value.trim()) parameters.set("q", search.value.trim());
    change(parameters, true);
  }

  key(event) {
    if (["ArrowDown", "Enter"].includes(event.key) && event.target === search) {
      this.grid.focus(0);
      return true;
    }
    return false;
  }
}

// The sample after or before this one, in the filter's order.
async function neighbour(by) {
  const at = Number(new URLSearchParams(location.hash.split("?")[1] || "").get("at") || 0) + by;
  if (at < 0) {
    say("That was the first sample");
    return;
  }
  const parameters = current();
  parameters.set("start", at);
  parameters.set("count", 1);
  const found = await read(`api/rows?${parameters}`).catch(() => ({ rows: [] }));
  if (found.rows.length) location.hash = `#/sample/${found.rows[0].number}?at=${at}`;
  else say("That was the last sample");
}

const PAGES = [
  [/^#\/sample\/(\d+)/, () => new SamplePage(main, neighbour)],
  [/^#\/prediction\/(\d+)/, () => new PredictionPage(main)],
  [/^#\/predictions/, () => new PredictionsPage(main)],
  [/^#\/quarantine/, () => new QuarantinePage(main)],
  [/^/, () => new SamplesPage()],
];

function tabs() {
  const here = location.hash;
  const tab = (href, label, number, on) => h("a", { href, "aria-current": on ? "page" : undefined }, label, number === undefined ? null : h("small", {}, count(number)));
  const parts = [tab("#/", "Samples", data.samples, !/^#\/(quarantine|predict)/.test(here))];
  if (data.evaluation) parts.push(tab("#/predictions", "Predictions", undefined, here.startsWith("#/predict")));
  if (data.counts.quarantined || here.startsWith("#/quarantine")) parts.push(tab("#/quarantine", "Quarantine", data.counts.quarantined, here.startsWith("#/quarantine")));
  document.getElementById("tabs").replaceChildren(...parts);
}

async function route() {
  page?.close();
  tabs();
  for (const [pattern, make] of PAGES) {
    const match = pattern.exec(location.hash);
    if (!match) continue;
    page = make();
    document.body.dataset.page = page.constructor.name;
    document.querySelector(".find").hidden = !page.searched;
    await page.open(match[1]);
    return;
  }
}

addEventListener("hashchange", route);
addEventListener("popstate", () => {
  search.value = current().get("q") || "";
  dispatchEvent(new CustomEvent("filter"));
});
let typing = 0;
search.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => page?.searched?.(), 120);
});
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const writing = event.target.matches?.("input:not([type=range]):not([type=checkbox]), select, textarea");
  if (event.key === "/" && !writing) {
    search.focus();
    event.preventDefault();
  } else if (event.key === "Escape" && event.target === search) search.blur();
  else if ((!writing || event.target === search) && page?.key) {
    if (event.target === search && !["ArrowDown", "Enter"].includes(event.key)) return;
    if (event.target.matches?.("button, a, summary") && [" ", "Enter"].includes(event.key)) return;
    if (event.target.matches?.("input[type=range]") && event.key.startsWith("Arrow")) return;
    if (page.key(event)) event.preventDefault();
  }
});

try {
  data = await read("api/dataset");
  document.getElementById("name").textContent = data.name;
  search.value = current().get("q") || "";
  await route();
} catch (error) {
  main.replaceChildren(problem(error));
}

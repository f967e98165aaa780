// A grid of any number of samples, of which those in sight are elements. Browsers end a page's height at some ten
// million pixels, or before; of a taller one the scrollbar stands for a part of the way, and small steps are still small.

import { h } from "./dom.js";

const PAGE = 120;
const PAGES = 60;
const TALLEST = 500_000;

// A place on one way as the place on a longer or shorter one: the same near both ends, so that small steps there are no
// leaps, and in proportion between.
function along(at, from, to) {
  const edge = Math.min(from, to) / 4;
  if (from === to || at <= edge) return Math.min(at, to);
  if (at >= from - edge) return to - (from - at);
  return edge + ((at - edge) / (from - 2 * edge)) * (to - 2 * edge);
}

export class Grid {
  // load(start, count) → {total, rows}; fill(tile, row, index): puts a row into an element made by make().
  constructor({ load, make, fill, caption, least, aspect, label }) {
    Object.assign(this, { load, make, fill, caption, least, aspect });
    this.inner = h("div", { class: "grid", role: "list", "aria-label": label });
    this.node = h("div", { class: "gridscroll", tabIndex: -1 }, this.inner);
    this.total = 0;
    this.pages = new Map();
    this.tiles = new Map();
    this.spare = [];
    this.offset = 0;
    this.last = 0;
    this.version = 0;
    this.node.addEventListener("scroll", () => this.scrolled(), { passive: true });
    this.node.addEventListener("keydown", (event) => this.key(event));
    this.watch = new ResizeObserver(() => this.resized());
    this.watch.observe(this.node);
  }

  // Start again: another filter, or another order.
  async reset() {
    this.version += 1;
    const version = this.version;
    this.pages.clear();
    const first = await this.load(0, PAGE);
    if (version !== this.version) return null;
    this.total = first.total;
    this.pages.set(0, first.rows);
    this.offset = this.last = this.node.scrollTop = 0;
    for (const [index] of this.tiles) this.drop(index);
    this.resized();
    return first;
  }

  close() {
    this.watch.disconnect();
    this.version += 1;
  }

  resized() {
    const width = this.node.clientWidth - 2 * this.edge();
    if (width <= 0) return;
    const top = this.columns ? this.first() : 0;
    const gap = 14;
    this.columns = Math.max(2, Math.floor((width + gap) / (this.least + gap)));
    this.tile = (width - gap * (this.columns - 1)) / this.columns;
    this.row = Math.round(this.tile * this.aspect + this.caption + gap);
    this.step = this.tile + gap;
    this.height = Math.ceil(this.total / this.columns) * this.row + 2 * this.edge();
    this.shown = Math.min(this.height, TALLEST);
    this.inner.style.height = `${this.shown}px`;
    this.go(Math.floor(top / this.columns) * this.row);
    for (const [index, tile] of this.tiles) this.place(tile, index);
    this.draw();
  }

  edge() {
    return this.node.clientWidth < 640 ? 10 : 18;
  }

  // Where the view is within the whole, which may be taller than what is scrolled.
  top() {
    return Math.max(0, Math.min(this.node.scrollTop + this.offset, this.height - this.node.clientHeight));
  }

  first() {
    return Math.floor(this.top() / this.row) * this.columns;
  }

  // Put the view at a place of the whole, and the scrollbar where it belongs.
  go(top) {
    const [room, way] = this.ways();
    const at = Math.max(0, Math.min(top, way));
    this.node.scrollTop = Math.round(along(at, way, room));
    this.last = this.node.scrollTop;
    this.offset = at - this.last;
  }

  // How far can be scrolled, and how far that leads in the whole.
  ways() {
    return [Math.max(0, this.shown - this.node.clientHeight), Math.max(0, this.height - this.node.clientHeight)];
  }

  scrolled() {
    const at = this.node.scrollTop;
    if (this.height > this.shown && at !== this.last) {
      const [room, way] = this.ways();
      if (Math.abs(at - this.last) > 3 * this.node.clientHeight || at <= 0 || at >= room) {
        this.offset = along(at, room, way) - at;
        for (const [index, tile] of this.tiles) this.place(tile, index);
      } else {
        clearTimeout(this.settle);
        this.settle = setTimeout(() => {
          this.go(this.top());
          for (const [index, tile] of this.tiles) this.place(tile, index);
          this.draw();
        }, 250);
      }
    }
    this.last = at;
    this.draw();
  }

  place(tile, index) {
    const x = this.edge() + (index % this.columns) * this.step;
    const y = this.edge() + Math.floor(index / this.columns) * this.row - this.offset;
    tile.style.width = `${this.tile}px`;
    tile.style.height = `${this.row - 14}px`;
    tile.style.transform = `translate(${x}px, ${y}px)`;
  }

  draw() {
    if (!this.row) return;
    const start = Math.max(0, (Math.floor(this.top() / this.row) - 1) * this.columns);
    const stop = Math.min(this.total, start + (Math.ceil(this.node.clientHeight / this.row) + 3) * this.columns);
    for (const [index] of this.tiles) if (index < start || index >= stop) this.drop(index);
    for (let index = start; index < stop; index += 1) this.put(index);
    for (let page = Math.floor(start / PAGE); page <= Math.floor(Math.max(start, stop - 1) / PAGE); page += 1) this.fetch(page);
  }

  put(index) {
    let tile = this.tiles.get(index);
    const row = this.pages.get(Math.floor(index / PAGE))?.[index % PAGE];
    if (!tile) {
      tile = this.spare.pop() || this.make();
      tile.row = undefined;
      tile.classList.add("empty");
      tile.setAttribute("aria-posinset", index + 1);
      tile.setAttribute("aria-setsize", this.total);
      tile.index = index;
      this.tiles.set(index, tile);
      this.place(tile, index);
      this.inner.append(tile);
    }
    if (row && tile.row !== row) {
      tile.row = row;
      tile.classList.remove("empty");
      this.fill(tile, row, index);
    }
  }

  drop(index) {
    const tile = this.tiles.get(index);
    this.tiles.delete(index);
    const focused = tile.contains(document.activeElement);
    tile.remove();
    tile.clear?.();
    if (focused) this.node.focus({ preventScroll: true });
    if (this.spare.length < 200) this.spare.push(tile);
  }

  async fetch(page) {
    if (this.pages.has(page) || page * PAGE >= this.total) return;
    const version = this.version;
    this.pages.set(page, undefined);
    // What is scrolled past is not asked for.
    await new Promise((resolve) => { setTimeout(resolve, 60); });
    const [start, stop] = this.span();
    if (version !== this.version) return;
    if (page < Math.floor(start / PAGE) || page > Math.floor(stop / PAGE)) {
      this.pages.delete(page);
      return;
    }
    try {
      const found = await this.load(page * PAGE, PAGE);
      if (version !== this.version) return;
      this.pages.set(page, found.rows);
    } catch {
      this.pages.delete(page);
      return;
    }
    for (const old of this.pages.keys()) {
      if (this.pages.size <= PAGES) break;
      if (old < Math.floor(start / PAGE) - 2 || old > Math.floor(stop / PAGE) + 2) this.pages.delete(old);
    }
    this.draw();
  }

  span() {
    const start = this.first();
    return [start, Math.min(this.total, start + (Math.ceil(this.node.clientHeight / this.row) + 2) * this.columns)];
  }

  key(event) {
    const tile = event.target.closest?.(".tile");
    const steps = {
      ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns,
      PageDown: this.columns * Math.max(1, Math.floor(this.node.clientHeight / this.row)),
      PageUp: -this.columns * Math.max(1, Math.floor(this.node.clientHeight / this.row)),
      Home: -Infinity, End: Infinity,
    };
    if (!tile || !(event.key in steps)) return;
    event.preventDefault();
    this.focus(Math.max(0, Math.min(this.total - 1, tile.index + steps[event.key])));
  }

  focus(index) {
    const at = this.edge() + Math.floor(index / this.columns) * this.row;
    const top = this.top();
    if (at < top || at + this.row > top + this.node.clientHeight) {
      this.go(at < top ? at - this.edge() : at + this.row - this.node.clientHeight);
      for (const [other, tile] of this.tiles) this.place(tile, other);
    }
    this.draw();
    this.tiles.get(index)?.focus({ preventScroll: true });
  }
}

// Episodes that could not be converted, with their reasons.

import { count, h, problem, read } from "./dom.js";

const PAGE = 60;

export class QuarantinePage {
  constructor(root) {
    this.root = root;
    this.code = "";
  }

  async open() {
    document.title = "Quarantine · actionimg view";
    this.codes = h("div", { class: "toggles", role: "group", "aria-label": "Reasons" });
    this.list = h("ul", { class: "quarantine" });
    this.more = h("div", {});
    this.root.replaceChildren(h("div", { class: "page" }, h("h1", {}, "Quarantine"),
      h("p", { class: "note" }, "Episodes that could not be converted. The search above looks in names and reasons."), this.codes, this.list, this.more));
    await this.load(0);
  }

  close() {}

  async load(start) {
    const words = document.getElementById("search").value;
    const asked = `${this.code}|${words}`;
    this.asked = asked;
    try {
      const found = await read(`api/quarantine?${new URLSearchParams({ code: this.code, q: words, start, count: PAGE })}`);
      if (asked !== this.asked) return;
      const chip = (code, number) => h("button", { type: "button", class: "toggle", "aria-pressed": String(this.code === code), onclick: () => { this.code = code; this.load(0); } }, code || "all", h("small", {}, count(number)));
      this.codes.replaceChildren(chip("", found.codes.reduce((sum, [, n]) => sum + n, 0)), ...found.codes.map(([code, n]) => chip(code, n)));
      if (!start) this.list.replaceChildren();
      this.list.append(...found.rows.map((row) => h("li", {}, h("h3", {}, row.id), h("p", {}, h("code", {}, row.code), " ", row.message),
        (row.findings || []).map((f) => h("p", { class: "note" }, `${f.kind}: ${f.stream}: found ${f.found}, expected ${f.expected}`)))));
      const left = found.total - start - found.rows.length;
      this.more.replaceChildren(...(left > 0 ? [h("button", { type: "button", onclick: () => this.load(start + PAGE) }, `Show more (${count(left)} left)`)] : found.total ? [] : [h("p", { class: "note" }, "Nothing is in quarantine that fits.")]));
    } catch (error) {
      this.list.replaceChildren(problem(error));
    }
  }

  searched() {
    this.load(0);
  }

  key() {
    return false;
  }
}

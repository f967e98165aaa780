// The filter: in the address, in the form beside the grid, and as the expression that training takes.

import { copyButton, count, h } from "./dom.js";

const NAMES = ["q", "task", "view", "calibration", "finding", "origin", "frames_min", "frames_max", "mm_min", "mm_max",
  "deg_min", "deg_max", "undecodable_min", "undecodable_max", "sort", "desc"];
const SORTS = [["", "order of the data set"], ["decode_position_p95_mm", "decode error"], ["decode_rotation_p95_deg", "rotation error"],
  ["undecodable_frames", "undecodable frames"], ["frames", "length"], ["instruction", "instruction"], ["task", "task"], ["key", "key"], ["bytes", "bytes"]];

export function current() {
  const given = new URLSearchParams(location.search);
  const kept = new URLSearchParams();
  for (const [name, value] of given) if (NAMES.includes(name) && (value || name === "origin")) kept.append(name, value);
  return kept;
}

// Another filter, as a new entry of the history where it is more than another letter of a search.
export function change(parameters, replace = false) {
  const text = parameters.toString();
  const address = `${location.pathname}${text ? `?${text}` : ""}${location.hash}`;
  if (address === `${location.pathname}${location.search}${location.hash}`) return;
  history[replace ? "replaceState" : "pushState"](null, "", address);
  dispatchEvent(new CustomEvent("filter"));
}

function set(name, values, replace) {
  const parameters = current();
  parameters.delete(name);
  for (const value of values) parameters.append(name, value);
  change(parameters, replace);
}

function range(label, name, limits, unit, step) {
  const chosen = current();
  const field = (end, place) => {
    const input = h("input", {
      type: "number", name: `${name}_${end}`, step, min: 0, placeholder: place, value: chosen.get(`${name}_${end}`) || "",
      onchange: () => set(`${name}_${end}`, input.value === "" ? [] : [input.value]),
    });
    input.setAttribute("aria-label", `${label}, ${end === "min" ? "at least" : "at most"}${unit ? ` ${unit}` : ""}`);
    return input;
  };
  const shown = (value) => (Number.isInteger(value) ? String(value) : value.toPrecision(3));
  return h("fieldset", { class: "range" }, h("legend", {}, label, unit && h("small", {}, unit)),
    field("min", shown(limits[0])), h("span", { "aria-hidden": "true" }, "–"), field("max", shown(limits[1])));
}

function choices(label, name, values, { titles = {}, single = false, more = 0, shown = 8 } = {}) {
  const chosen = current().getAll(name);
  const list = h("div", { class: "choices" });
  const pick = (value, on) => {
    const now = current().getAll(name).filter((v) => v !== value);
    set(name, single ? (on ? [value] : []) : on ? [...now, value] : now);
  };
  const line = ([value, number]) => {
    const box = h("input", { type: "checkbox", checked: chosen.includes(value), onchange: () => pick(value, box.checked) });
    return h("label", {}, box, h("span", {}, titles[value] || value || "none"), number === undefined ? null : h("small", {}, count(number)));
  };
  const first = [...values.filter(([v]) => chosen.includes(v)), ...values.filter(([v]) => !chosen.includes(v))];
  list.append(...first.slice(0, shown).map(line));
  if (first.length > shown) {
    const rest = h("button", { type: "button", class: "small", onclick: () => {
      rest.replaceWith(...first.slice(shown).map(line), ...(more ? [h("p", { class: "note" }, `and ${count(more)} more: search`)] : []));
    } }, `${count(first.length - shown + more)} more`);
    list.append(rest);
  }
  return h("fieldset", {}, h("legend", {}, label), list);
}

export function sorting() {
  const chosen = current();
  const select = h("select", { id: "sort", onchange: () => set("sort", select.value ? [select.value] : []) },
    SORTS.map(([value, text]) => h("option", { value, selected: chosen.get("sort") === value }, text)));
  const down = chosen.get("desc") === "1";
  const turn = h("button", { type: "button", class: "small", "aria-pressed": String(down), title: "Largest first",
    onclick: () => set("desc", down ? [] : ["1"]) }, down ? "↓" : "↑");
  turn.setAttribute("aria-label", down ? "Descending: turn to ascending" : "Ascending: turn to descending");
  return h("div", { class: "sorting" }, h("label", { htmlFor: "sort" }, "sort"), select, turn);
}

// The form; drawn anew when the filter changes from elsewhere.
export function form(facets, expression) {
  const parts = [];
  if (facets) {
    if (facets.tasks.length > 1 || facets.tasks[0]?.[0]) parts.push(choices("Task", "task", facets.tasks.filter(([t]) => t), { more: facets.more_tasks }));
    if (facets.frames) parts.push(range("Length", "frames", facets.frames, "frames", 1));
    if (facets.decode_position_p95_mm) parts.push(range("Decode error", "mm", facets.decode_position_p95_mm, "mm, p95", "any"));
    if (facets.decode_rotation_p95_deg) parts.push(range("Rotation error", "deg", facets.decode_rotation_p95_deg, "°, p95", "any"));
    if (facets.undecodable_frames && facets.undecodable_frames[1] > 0) parts.push(range("Undecodable", "undecodable", facets.undecodable_frames, "frames", 1));
    if (facets.calibration.length) parts.push(choices("Calibration", "calibration", facets.calibration, { single: true }));
    if (facets.views.length > 1 && (facets.views_differ || facets.calibration.length)) {
      parts.push(choices(facets.views_differ ? "Has view" : "Calibration of", "view", facets.views.map((v) => [v]), { single: true }));
    }
    if (facets.findings.length) parts.push(choices("Findings", "finding", facets.findings));
    if (facets.origins.length > 1) parts.push(choices("Cameras", "origin", facets.origins, { titles: { "": "the source's own" } }));
    if (!facets.decode_position_p95_mm) parts.push(h("p", { class: "note" }, "Decode errors are there to filter by once ", h("code", {}, "actionimg verify OUT --record"), " has measured them."));
  } else parts.push(h("p", { class: "note" }, "Counting…"));
  const used = [...current().keys()].some((name) => name !== "sort" && name !== "desc");
  return h("form", { class: "filters", onsubmit: (event) => event.preventDefault() },
    h("div", { class: "filterhead" }, h("h2", {}, "Filter"),
      used && h("button", { type: "button", class: "small", onclick: () => {
        const left = new URLSearchParams([...current()].filter(([n]) => n === "sort" || n === "desc"));
        document.getElementById("search").value = "";
        change(left);
      } }, "Clear")),
    parts,
    expression && h("div", { class: "expression" }, h("h3", {}, "For training"),
      h("pre", { tabIndex: 0 }, h("code", {}, expression)),
      copyButton("Copy expression", `import pyarrow.compute as pc\n\nfilter = ${expression}`, "the filter"),
      h("p", { class: "note" }, h("code", {}, "ActionImageDataset(out, filter=filter)"), " trains on these samples.")));
}

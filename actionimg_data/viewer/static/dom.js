// Elements without HTML text: what comes out of a data set is only ever text.

const SVG = "http://www.w3.org/2000/svg";

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.setAttribute("class", value);
    else if (name in node && typeof node[name] !== "object" && !(node instanceof SVGElement)) node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    node.append(child instanceof Node ? child : String(child));
  }
  return node;
}

export const h = (tag, attributes, ...children) => filled(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => filled(document.createElementNS(SVG, tag), attributes, children);

export async function read(path, signal) {
  let answer;
  let text;
  try {
    answer = await fetch(path, { signal });
    text = await answer.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("actionimg view does not answer any more: was it ended?");
  }
  if (answer.headers.get("content-type") !== "application/json") throw new Error(answer.ok ? "The answer is not what was asked for." : text);
  const body = JSON.parse(text);
  if (!answer.ok) throw new Error(body.error);
  return body;
}

let quiet = 0;
export function say(text) {
  const said = document.getElementById("said");
  said.textContent = text;
  said.classList.add("shown");
  clearTimeout(quiet);
  quiet = setTimeout(() => said.classList.remove("shown"), 2600);
}

export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    say(`Copied ${what}`);
  } catch {
    // Without the permission: the old way.
    const area = h("textarea", { class: "hidden", value: text });
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    say(done ? `Copied ${what}` : "The browser does not let this page copy");
  }
}

export const copyButton = (label, text, what) =>
  h("button", { type: "button", class: "small", onclick: () => copy(typeof text === "function" ? text() : text, what) }, label);

export const count = (value) => value.toLocaleString("en").replaceAll(",", "\u202f");
export const fixed = (value, digits = 2) =>
  value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "\u2212");
export const percent = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(value > 0.995 && value < 1 ? 1 : 0)} %`);

export function seconds(value) {
  return value < 120 ? `${value.toFixed(1)} s` : `${(value / 60).toFixed(1)} min`;
}

export function bytes(value) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (value < 1000) return `${unit === "B" ? value : value.toFixed(1)} ${unit}`;
    value /= 1000;
  }
  return `${value.toFixed(1)} TB`;
}

export const problem = (error) => h("p", { class: "problem", role: "alert" }, error.message || String(error));

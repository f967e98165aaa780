// One sample: its pictures in step, the gripper in space, its numbers, and where it came from.

import { Curves } from "./curves.js";
import { bytes, copyButton, count, fixed, h, problem, read, seconds } from "./dom.js";
import { Player } from "./player.js";

const LAYERS = [["rgb", "camera"], ["action", "action"], ["blend", "both"]];
const COLOURS = ["red", "green", "blue", "accent"];
const BLEND = 360;
const NOISE = 12 / 255;
// Frames times views above which action videos are decoded only when asked.
const DECODED_UNASKED = 1600;

// As actionimg's own reports do it: the blobs over the picture, the pedestal left out.
function blended(context, rgb, action, spec, grippers, width, height) {
  const { pedestal, fov_scale: wider } = spec;
  context.fillRect(0, 0, width, height);
  // Where the action image has a wider field of view than the camera, its middle lies over the picture.
  context.drawImage(action, (width * (1 - wider)) / 2, (height * (1 - wider)) / 2, width * wider, height * wider);
  const drawn = context.getImageData(0, 0, width, height);
  context.drawImage(rgb, 0, 0, width, height);
  const out = context.getImageData(0, 0, width, height);
  const floor = 255 * (pedestal * grippers + NOISE);
  const [a, p] = [drawn.data, out.data];
  for (let i = 0; i < a.length; i += 4) {
    const blue = a[i + 2] <= floor ? 0 : a[i + 2];
    const most = Math.max(a[i], a[i + 1], blue);
    if (most < 10) continue;
    const left = 1 - most / 255;
    p[i] = p[i] * left + a[i];
    p[i + 1] = p[i + 1] * left + a[i + 1];
    p[i + 2] = p[i + 2] * left + blue;
  }
  context.putImageData(out, 0, 0);
}

function marked(context, points, width, height) {
  const at = points.map((p) => (p[0] === null ? null : [p[0] * width, p[1] * height]));
  if (!at[0]) return;
  const line = Math.max(1, width / 200);
  context.lineCap = "round";
  for (const [end, tone] of [[at[1], "#42e264"], [at[2], "#688cff"]]) {
    if (!end) continue;
    for (const [thick, ink] of [[2.6 * line, "#18181b"], [line, tone]]) {
      context.beginPath();
      context.moveTo(...at[0]);
      context.lineTo(...end);
      context.lineWidth = thick;
      context.strokeStyle = ink;
      context.stroke();
    }
  }
  context.beginPath();
  context.arc(...at[0], 3.4 * line, 0, 2 * Math.PI);
  context.lineWidth = line;
  context.strokeStyle = "#ffffff";
  context.stroke();
}

class View {
  constructor(sample, one, index) {
    Object.assign(this, { sample, one, index });
    const { meta } = sample;
    this.name = one.view;
    this.rgb = this.video(one.rgb, `camera ${one.view}`);
    this.hasAction = Object.keys(one.action).length > 0;
    this.panels = { rgb: this.panel("rgb", this.rgb) };
    this.videos = [this.rgb];
    if (this.hasAction) {
      this.action = this.video(one.action[Object.keys(one.action)[0]], `action images ${one.view}`);
      const scale = BLEND / Math.max(meta.height, meta.width);
      this.canvas = h("canvas", { width: Math.round(meta.width * scale), height: Math.round(meta.height * scale), role: "img",
        "aria-label": `camera and action images of ${one.view}, blended` });
      this.context = this.canvas.getContext("2d", { willReadFrequently: true });
      this.panels.action = this.panel("action", this.action);
      this.panels.blend = this.panel("blend", this.canvas);
      this.videos.push(this.action);
    }
    for (const [kind, path] of Object.entries(one.planes)) {
      const video = this.video(path, `${kind} ${one.view}`);
      this.panels[kind] = this.panel(kind, video);
      this.videos.push(video);
    }
    this.node = h("section", { class: "view", "aria-label": `View ${one.view}` }, h("h3", {}, one.view), h("div", { class: "panels" }, Object.values(this.panels)));
  }

  video(source, label) {
    const video = h("video", { muted: true, playsInline: true, preload: "auto", src: source, disablePictureInPicture: true });
    video.setAttribute("aria-label", label);
    video.addEventListener("error", () => video.replaceWith(h("p", { class: "problem" }, `${label} cannot be played`)));
    return video;
  }

  panel(layer, content) {
    const { meta } = this.sample;
    const title = Object.fromEntries(LAYERS)[layer] || layer;
    const box = h("figure", { class: "panel" }, content, h("figcaption", {}, title));
    box.dataset.layer = layer;
    box.style.aspectRatio = `${meta.width} / ${meta.height}`;
    return box;
  }

  gripper(name) {
    if (this.hasAction && this.one.action[name]) this.action.src = this.one.action[name];
  }

  draw(frame) {
    if (!this.context || this.rgb.readyState < 2 || this.action.readyState < 2 || !this.canvas.offsetParent) return;
    blended(this.context, this.rgb, this.action, this.sample.spec, this.merged(), this.canvas.width, this.canvas.height);
    for (const points of this.sample.keypoints[this.name] || []) marked(this.context, points[frame], this.canvas.width, this.canvas.height);
  }

  merged() {
    return this.sample.meta.merged_arms ? this.sample.grippers.length : 1;
  }
}

function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.filter(([, value]) => value !== undefined && value !== null && value !== "").map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

function table(label, head, rows) {
  return h("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": label }, h("table", {},
    h("thead", {}, h("tr", {}, head.map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, i) => (i ? h("td", {}, cell) : h("th", { scope: "row" }, cell))))))));
}

export class SamplePage {
  constructor(root, neighbours) {
    this.root = root;
    this.neighbours = neighbours;
  }

  async open(number) {
    this.number = number;
    this.abort = new AbortController();
    this.root.replaceChildren(h("p", { class: "note wait" }, "Reading the sample…"));
    let sample;
    try {
      sample = await read(`api/sample/${number}`, this.abort.signal);
    } catch (error) {
      if (error.name !== "AbortError") this.root.replaceChildren(h("div", { class: "page" }, this.back(), problem(error)));
      return;
    }
    this.show(sample);
  }

  close() {
    this.abort?.abort();
    this.player?.close();
    this.space?.close();
    this.player = this.space = null;
  }

  back() {
    return h("a", { class: "back", href: "#/" }, "← all samples");
  }

  show(sample) {
    const { meta } = sample;
    document.title = `${meta.instruction} · actionimg view`;
    this.views = sample.videos.map((one, i) => new View(sample, one, i));
    this.curves = new Curves(sample.frames, (frame) => { this.player.pause(); this.player.seek(frame); });
    this.player = new Player({
      videos: this.views.flatMap((view) => view.videos), frames: sample.frames, fps: sample.fps,
      draw: (frame) => this.draw(frame),
    });
    this.draws(sample);
    const views = h("div", { class: "views", "aria-label": "Views" }, this.views.map((view) => view.node));
    views.dataset.panels = Object.keys(this.views[0].panels).length;
    const [previous, next] = [this.turn("‹ previous", -1), this.turn("next ›", 1)];
    const space = h("div", { class: "spacebox" });
    this.root.replaceChildren(h("div", { class: "page sample" },
      h("div", { class: "crumbs" }, this.back(), h("span", {}, previous, next)),
      h("h1", {}, meta.instruction),
      h("p", { class: "meta" }, h("span", { class: "mono" }, sample.key), copyButton("Copy key", sample.key, "the key"),
        h("span", {}, `${sample.frames} frames at ${sample.fps} fps, ${seconds(sample.frames / sample.fps)}`), meta.task && h("span", {}, meta.task)),
      this.layers(sample, views), views, h("div", { class: "dock" }, this.player.node),
      h("div", { class: "two" }, h("div", {}, h("h2", {}, "Curves"), this.curves.node, this.decodeNode = h("div", {})),
        h("div", {}, h("h2", {}, "In space"), space)),
      this.about(sample)));
    this.three(sample, space);
    this.decode(sample);
    this.player.seek(0);
  }

  draw(frame) {
    // On a machine that draws slowly, playing goes before drawing every frame.
    const now = performance.now();
    if (this.player.playing && now - (this.drawn || 0) < 1.5 * (this.cost || 0)) return;
    for (const view of this.views) view.draw(frame);
    this.curves.draw(frame);
    this.space?.draw(frame);
    this.drawn = performance.now();
    this.cost = this.drawn - now;
  }

  turn(label, by) {
    const link = h("button", { type: "button", class: "small", title: by < 0 ? "Previous sample (p)" : "Next sample (n)", onclick: () => this.neighbours(by) }, label);
    return link;
  }

  layers(sample, views) {
    const present = Object.keys(this.views[0].panels);
    const toggle = (label, pressed, act) => {
      const button = h("button", { type: "button", class: "toggle", "aria-pressed": String(pressed), onclick: () => {
        const on = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(on));
        act(on);
      } }, label);
      return button;
    };
    const shown = new Set(present);
    const apply = () => {
      views.dataset.panels = shown.size || 1;
      for (const view of this.views) for (const [layer, panel] of Object.entries(view.panels)) panel.hidden = !shown.has(layer);
      this.draw(this.player.frame);
    };
    const layers = present.length > 1 && h("div", { class: "toggles", role: "group", "aria-label": "Layers" }, present.map((layer) =>
      toggle(Object.fromEntries(LAYERS)[layer] || layer, true, (on) => { if (on) shown.add(layer); else shown.delete(layer); apply(); })));
    const names = this.views.length > 1 && h("div", { class: "toggles", role: "group", "aria-label": "Views" }, this.views.map((view) =>
      toggle(view.name, true, (on) => { view.node.hidden = !on; this.draw(this.player.frame); })));
    const several = Object.keys(sample.videos[0].action);
    const grippers = several.length > 1 && h("label", { class: "chosen" }, "action of ", h("select", { onchange: (event) => {
      this.player.pause();
      for (const view of this.views) view.gripper(event.target.value);
      this.player.seek(this.player.frame);
    } }, several.map((name) => h("option", { value: name }, name))));
    return h("div", { class: "layers" }, layers, names, grippers);
  }

  draws(sample) {
    const several = sample.grippers.length > 1;
    for (const gripper of sample.grippers) {
      const name = several ? `${gripper.name}: ` : "";
      const axes = (values) => ["x", "y", "z"].map((axis, i) => ({ name: axis, colour: COLOURS[i], values: values.map((row) => row[i]) }));
      this.curves.add({ title: `${name}position`, unit: "m", series: axes(gripper.position), digits: 3 });
      this.curves.add({ title: `${name}rotation`, unit: "° about fixed axes", series: axes(gripper.euler_deg), digits: 1 });
      this.curves.add({ title: `${name}openness`, unit: "1 is open", series: [{ name: "", colour: "accent", values: gripper.openness }], limits: [0, 1] });
    }
    if (sample.sync_ms.length) {
      this.curves.add({ title: "from frame to nearest pose", unit: "ms", series: [{ name: "", colour: "accent", values: sample.sync_ms }] });
    }
  }

  three(sample, box) {
    if (!sample.cameras.length && sample.grippers.every((gripper) => gripper.position.every((p) => p[0] === null))) {
      box.append(h("p", { class: "note" }, "No pose and no camera is known."));
      return;
    }
    import("./space.js").then(({ Space }) => {
      if (!this.player) return;
      this.space = new Space(sample);
      box.append(this.space.node);
      this.space.draw(this.player.frame);
    }).catch((error) => {
      box.append(h("p", { class: "note" }, `Nothing is drawn in space: ${/webgl/i.test(error.message) ? "this browser has no WebGL." : error.message}`));
    });
  }

  decode(sample) {
    if (!sample.decodable) return;
    const run = async () => {
      this.decodeNode.replaceChildren(h("p", { class: "note" }, "Decoding the action videos…"));
      try {
        const found = await read(`api/decoded/${sample.number}`, this.abort.signal);
        this.decodeNode.replaceChildren();
        for (const gripper of found.grippers) {
          const name = found.grippers.length > 1 ? `${gripper.name}: ` : "";
          this.curves.add({ title: `${name}decode error`, unit: "mm", series: [{ name: "", colour: "red", values: gripper.position_mm }], digits: 3 });
          this.curves.add({ title: `${name}rotation error`, unit: "°", series: [{ name: "", colour: "green", values: gripper.rotation_deg }], digits: 3 });
          this.curves.add({ title: `${name}trust`, unit: "probability of being right", series: [{ name: "", colour: "blue", values: gripper.trust }], limits: [0, 1], digits: 3 });
        }
      } catch (error) {
        if (error.name !== "AbortError") this.decodeNode.replaceChildren(problem(error));
      }
    };
    if (sample.frames * this.views.length * sample.grippers.length <= DECODED_UNASKED) run();
    else this.decodeNode.replaceChildren(h("button", { type: "button", onclick: run }, "Decode its action videos"));
  }

  about(sample) {
    const { meta, commands } = sample;
    const cameras = sample.cameras.map((camera) => {
      const [K, pose] = [camera.K[0], camera.world_from_camera[0]];
      const field = (2 * Math.atan(camera.width / (2 * K[0][0])) * 180) / Math.PI;
      const verdict = (meta.calibration || []).find((row) => row.view === camera.view);
      const origin = meta.camera_origins?.[camera.view];
      return [camera.view, camera.moves ? "yes" : "no", `${fixed(K[0][0], 1)} × ${fixed(K[1][1], 1)}`, `${fixed(K[0][2], 1)}, ${fixed(K[1][2], 1)}`,
        `${fixed(field, 0)}°`, [0, 1, 2].map((i) => fixed(pose[i][3])).join(", "), origin ? String(origin) : "calibrated", verdict ? `${verdict.verdict}: ${verdict.reason}` : "not checked"];
    });
    const spans = meta.instruction_spans || [];
    const findings = meta.findings || [];
    const sync = sample.sync_ms.length ? `${meta.sync}; nearest pose up to ${fixed(Math.max(...sample.sync_ms.map(Math.abs)), 2)} ms away` : meta.sync;
    const command = (label, text) => h("div", { class: "command" }, h("div", {}, h("h3", {}, label), h("pre", { tabIndex: 0 }, h("code", {}, text))), copyButton("Copy", text, "the command"));
    return h("div", { class: "about" },
      h("section", {}, h("h2", {}, "Cameras"), cameras.length
        ? table("Cameras", ["view", "moves", "focal length, px", "centre, px", "width of view", "position, m", "from", "calibration check"], cameras)
        : h("p", { class: "note" }, "No camera is known.")),
      findings.length ? h("section", {}, h("h2", {}, "Findings"), h("p", { class: "note" }, "Found, and allowed when the data set was made."),
        table("Findings", ["kind", "stream", "expected", "found"], findings.map((f) => [f.kind, f.stream, f.expected, f.found]))) : null,
      h("section", {}, h("h2", {}, "To copy"), h("div", { class: "commands" }, command("Look at it in the terminal", commands.inspect),
        command("Open in rerun", commands.rerun), command("Cut a window out of it", commands.window), command("In Python", commands.python))),
      h("section", {}, h("h2", {}, "Where it came from"), facts([
        ["episode", h("span", { class: "mono" }, meta.episode)], ["clip", `${meta.clip}, from frame ${meta.start_frame}, every ${meta.stride}`],
        ["instructions", meta.instructions.length > 1 ? h("ul", {}, (spans.length ? spans : meta.instructions.map((text) => ({ text }))).map((span) => h("li", {}, span.end ? `${span.start}–${span.end - 1}: ` : "", span.text))) : null],
        ["in the source", meta.source_sizes.map(([height, width], i) => `${meta.views[i]} ${width} × ${height}`).join(", ")],
        ["stored", `${meta.width} × ${meta.height}, pictures ${meta.rgb_codec}, action images ${meta.action_codec}`], ["sync", sync],
        ["members", h("ul", { class: "members" }, Object.entries(sample.members).map(([name, size]) => h("li", {}, h("span", { class: "mono" }, name), " ", h("small", {}, bytes(size)))))],
        ["provenance", h("pre", { tabIndex: 0 }, h("code", {}, JSON.stringify(meta.provenance, null, 1)))],
      ])),
      h("p", { class: "note" }, `Sample ${count(sample.number)} of the index. Keys: space plays, ← → step (shift: ten), , and . change the speed, n and p go to the next and the previous sample, Escape goes back.`));
  }

  key(event) {
    if (event.key === "n" || event.key === "p") {
      this.neighbours(event.key === "n" ? 1 : -1);
      return true;
    }
    if (event.key === "Escape") {
      location.hash = "#/";
      return true;
    }
    return this.player ? this.player.key(event) : false;
  }
}

// Several videos in step: one clock, one slider. While they run, those ahead of the first wait and the first waits for
// those that cannot follow: nothing is sought, which would cost more than it wins. When they stand, every one shows the
// frame that the slider says.

import { h, s, seconds } from "./dom.js";

const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4];
// Frames by which a video may be ahead before it waits, and behind before the first slows down, or waits.
const [AHEAD, BEHIND, LOST] = [1.5, 3, 10];
const SHAPES = {
  first: "M5 4v12M15 4l-7 6 7 6z", back: "M13 4l-7 6 7 6z", on: "M7 4l7 6-7 6z", play: "M6 3.5l10 6.5-10 6.5z", pause: "M6 4h2.6v12H6zM11.4 4H14v12h-2.6z",
};

function icon(shape) {
  return s("svg", { viewBox: "0 0 20 20", "aria-hidden": "true", class: "icon" }, s("path", { d: SHAPES[shape] }));
}

export class Player {
  // videos: elements; frames, fps: of all of them; draw(frame): after what is shown has changed.
  constructor({ videos, frames, fps, draw, unit = "frame" }) {
    Object.assign(this, { videos, frames, fps, draw });
    this.frame = 0;
    this.wanted = 0;
    this.speed = 1;
    this.playing = false;
    this.slider = h("input", { type: "range", min: 0, max: frames - 1, value: 0, step: 1, class: "slider", "aria-label": "Frame" });
    this.slider.addEventListener("input", () => this.seek(Number(this.slider.value)));
    this.button = h("button", { type: "button", class: "play", title: "Play (space)", onclick: () => this.toggle() });
    this.shown = h("output", { class: "at" });
    this.rate = h("select", { "aria-label": "Speed", onchange: () => { this.speed = Number(this.rate.value); this.pace(); } },
      SPEEDS.map((v) => h("option", { value: v, selected: v === 1 }, `${v}×`)));
    const step = (shape, title, by) => h("button", { type: "button", class: "step", title, "aria-label": title, onclick: () => this.step(by) }, icon(shape));
    this.node = h("div", { class: "controls", role: "group", "aria-label": "Playback" },
      step("first", "First frame (home)", -Infinity), step("back", `One ${unit} back (←)`, -1), this.button,
      step("on", `One ${unit} on (→)`, 1), this.slider, this.shown, this.rate);
    for (const video of videos) {
      video.addEventListener("seeked", () => this.arrived(video));
      video.addEventListener("loadeddata", () => this.arrived(video));
      video.addEventListener("ended", () => { if (video === this.videos[0] && this.playing) this.again(); });
    }
    this.due = 0;
    this.tick = this.tick.bind(this);
    this.label();
  }

  close() {
    this.playing = false;
    // What was asked for before comes afterwards, to a page that is gone.
    this.draw = () => {};
    for (const video of this.videos) {
      video.pause();
      video.removeAttribute("src");
      video.load();
    }
  }

  clamp(frame) {
    return Math.max(0, Math.min(this.frames - 1, frame));
  }

  step(by) {
    this.pause();
    this.seek(this.clamp(by === -Infinity ? 0 : by === Infinity ? this.frames - 1 : this.frame + by));
  }

  seek(frame) {
    this.wanted = this.frame = this.clamp(frame);
    for (const video of this.videos) this.bring(video);
    this.label();
    this.draw(this.frame);
  }

  // The middle of a frame's time, so that rounding leads to no other.
  bring(video) {
    if (video.readyState < 1) return;
    if (video.seeking) {
      video.late = true;
      return;
    }
    const time = (this.wanted + 0.5) / this.fps;
    if (Math.abs(video.currentTime - time) < 0.25 / this.fps) return;
    video.currentTime = Math.min(time, Math.max(0, (video.duration || time) - 1e-3));
  }

  arrived(video) {
    if (video.late) {
      video.late = false;
      if (!this.playing) this.bring(video);
    } else if (!this.playing && video.readyState >= 1 && Math.floor(video.currentTime * this.fps + 1e-6) !== this.wanted) this.bring(video);
    // Of several that arrive together, one drawing.
    this.due ||= requestAnimationFrame(() => {
      this.due = 0;
      if (!this.playing) this.draw(this.frame);
    });
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  async play() {
    if (!this.videos.length) return;
    this.playing = true;
    this.label();
    if (this.frame >= this.frames - 1) {
      await this.again();
    } else {
      this.pace();
      await Promise.allSettled(this.videos.map((video) => video.play()));
    }
    if (this.playing) requestAnimationFrame(this.tick);
  }

  pause() {
    if (!this.playing) return;
    this.playing = false;
    for (const video of this.videos) video.pause();
    this.seek(this.now());
  }

  // From the first frame, all together.
  async again() {
    if (this.turning) return;
    this.turning = true;
    await Promise.all(this.videos.map((video) => new Promise((resolve) => {
      video.pause();
      if (video.currentTime === 0 && !video.seeking) {
        resolve();
        return;
      }
      video.addEventListener("seeked", resolve, { once: true });
      video.addEventListener("error", resolve, { once: true });
      video.currentTime = 0;
    })));
    this.turning = false;
    if (!this.playing) return;
    this.pace();
    await Promise.allSettled(this.videos.map((video) => video.play()));
  }

  pace() {
    for (const video of this.videos) video.playbackRate = this.speed;
  }

  now() {
    return this.clamp(Math.floor(this.videos[0].currentTime * this.fps + 1e-3));
  }

  tick() {
    if (!this.playing) return;
    if (!this.turning) this.together();
    const frame = this.now();
    if (frame !== this.frame) {
      this.frame = this.wanted = frame;
      this.label();
      this.draw(frame);
    }
    requestAnimationFrame(this.tick);
  }

  together() {
    const [first, ...others] = this.videos;
    if (first.ended || first.seeking) return;
    let behind = 0;
    for (const video of others) {
      const off = (video.currentTime - first.currentTime) * this.fps;
      if (video.error || video.seeking) continue;
      if (video.ended) {
        if (off > LOST) video.currentTime = first.currentTime;
        continue;
      }
      behind = Math.max(behind, -off);
      if (off > AHEAD && !video.paused) video.pause();
      else if (off < 0.5 * AHEAD && video.paused) video.play().catch(() => {});
      const rate = this.speed * (off < -0.3 ? 1.5 : off > 0.3 ? 0.8 : 1);
      if (video.playbackRate !== rate) video.playbackRate = rate;
    }
    const rate = this.speed * (behind > BEHIND ? 0.5 : 1);
    if (first.playbackRate !== rate) first.playbackRate = rate;
    if (behind > LOST && !first.paused) first.pause();
    else if (behind < BEHIND && first.paused) first.play().catch(() => {});
  }

  label() {
    this.slider.value = this.frame;
    this.slider.setAttribute("aria-valuetext", `frame ${this.frame} of ${this.frames}`);
    if (this.button.dataset.playing !== String(this.playing)) this.button.replaceChildren(icon(this.playing ? "pause" : "play"));
    this.button.dataset.playing = String(this.playing);
    this.button.setAttribute("aria-label", this.playing ? "Pause (space)" : "Play (space)");
    this.shown.textContent = `${this.frame} / ${this.frames - 1} · ${seconds(this.frame / this.fps)}`;
  }

  // True where the key was one of the player's.
  key(event) {
    const keys = {
      " ": () => this.toggle(), k: () => this.toggle(), ArrowLeft: () => this.step(event.shiftKey ? -10 : -1),
      ArrowRight: () => this.step(event.shiftKey ? 10 : 1), Home: () => this.step(-Infinity), End: () => this.step(Infinity),
      ",": () => this.faster(-1), ".": () => this.faster(1),
    };
    if (!keys[event.key]) return false;
    keys[event.key]();
    return true;
  }

  faster(by) {
    const at = Math.max(0, Math.min(SPEEDS.length - 1, SPEEDS.indexOf(this.speed) + by));
    this.speed = SPEEDS[at];
    this.rate.value = String(this.speed);
    this.pace();
  }
}

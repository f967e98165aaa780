// The gripper's way and the cameras in space; they move with the slider.

import * as THREE from "./three.module.min.js";
import { h } from "./dom.js";

const PATHS = [0x6f8fc8, 0xd08a3c, 0x4fae7b, 0xb45fb0];
const AXES = [[1, 0, 0, 0x2fa35c], [0, 0, -1, 0x3f6fe0]];

const colour = (name) => new THREE.Color(getComputedStyle(document.documentElement).getPropertyValue(name).trim() || "#888888");

// A path as a thin tube: lines of WebGL are one pixel wide.
function tube(points, radius, material) {
  const far = points.filter((p, i) => !i || p.distanceTo(points[i - 1]) > 1e-6);
  if (far.length < 2) return null;
  const curve = new THREE.CatmullRomCurve3(far, false, "centripetal");
  return new THREE.Mesh(new THREE.TubeGeometry(curve, Math.min(1500, 4 * far.length), radius, 6), material);
}

export class Space {
  constructor(sample) {
    this.sample = sample;
    this.canvas = h("canvas", { tabIndex: 0, role: "img",
      "aria-label": "Gripper path and cameras in space. Arrow keys turn it, plus and minus zoom, 0 goes back." });
    this.labels = h("div", { class: "labels", "aria-hidden": "true" });
    const button = (label, act) => h("button", { type: "button", class: "small", onclick: act }, label);
    this.node = h("div", { class: "space" }, this.canvas, this.labels, h("div", { class: "turn" },
      button("above", () => this.look(-Math.PI / 2, Math.PI / 2 - 0.001)), button("front", () => this.look(0, 0.05)),
      button("side", () => this.look(-Math.PI / 2, 0.05)), button("reset", () => this.home())));
    this.frame = 0;
    this.build();
    this.home();
    this.listen();
    this.watch = new ResizeObserver(() => this.resize());
    this.watch.observe(this.node);
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.theme = () => { this.paint(); this.draw(this.frame); };
    this.dark.addEventListener("change", this.theme);
  }

  build() {
    // Throws where the browser has no WebGL.
    this.renderer = new THREE.WebGLRenderer({ canvas: this.canvas, antialias: true, alpha: true });
    this.scene = new THREE.Scene();
    this.eye = new THREE.PerspectiveCamera(38, 1, 0.01, 200);
    this.eye.up.set(0, 0, 1);
    const box = new THREE.Box3();
    const paths = [];
    this.grippers = this.sample.grippers.map((gripper, i) => {
      const all = gripper.position.map((p) => (p[0] === null ? null : new THREE.Vector3(...p)));
      const known = all.filter(Boolean);
      known.forEach((p) => box.expandByPoint(p));
      paths.push([all, new THREE.MeshBasicMaterial({ color: PATHS[i % PATHS.length] })]);
      if (known.length) {
        for (const [p, tone] of [[known[0], 0x2fa35c], [known[known.length - 1], 0xd84545]]) {
          const end = new THREE.Mesh(new THREE.SphereGeometry(1, 12, 8), new THREE.MeshBasicMaterial({ color: tone }));
          end.position.copy(p);
          end.userData.ball = 0.55;
          this.scene.add(end);
        }
      }
      return { all, quaternion: gripper.quaternion, node: this.gripper() };
    });
    this.cameras = this.sample.cameras.map((camera) => {
      const node = new THREE.LineSegments(new THREE.BufferGeometry(), new THREE.LineBasicMaterial({ color: 0x8892a6 }));
      const label = h("span", {}, camera.view);
      this.labels.append(label);
      this.scene.add(node);
      box.expandByPoint(new THREE.Vector3(...camera.world_from_camera[0].slice(0, 3).map((row) => row[3])));
      return { camera, node, label };
    });
    if (box.isEmpty()) box.expandByPoint(new THREE.Vector3());
    box.expandByScalar(0.05);
    this.centre = box.getCenter(new THREE.Vector3());
    this.radius = Math.max(0.2, box.getSize(new THREE.Vector3()).length() / 2);
    this.scene.traverse((node) => { if (node.userData.ball) node.scale.setScalar(0.012 * this.radius * node.userData.ball); });
    for (const [all, material] of paths) {
      // A gap where there is no pose.
      let run = [];
      for (const p of [...all, null]) {
        if (p) { run.push(p); continue; }
        const drawn = tube(run, 0.005 * this.radius, material);
        if (drawn) this.scene.add(drawn);
        run = [];
      }
    }
    for (const one of this.grippers) one.node.children[0].scale.setScalar(0.014 * this.radius);
    for (const one of this.cameras) this.frustum(one, 0);
    const size = 2 ** Math.ceil(Math.log2(2 * this.radius));
    this.grid = new THREE.GridHelper(size, 20);
    this.grid.rotation.x = Math.PI / 2;
    this.grid.position.set(this.centre.x, this.centre.y, box.min.z);
    this.scene.add(this.grid);
    this.paint();
  }

  gripper() {
    const node = new THREE.Group();
    node.add(new THREE.Mesh(new THREE.SphereGeometry(1, 16, 10), new THREE.MeshBasicMaterial({ color: 0xe0463c })));
    const reach = this.sample.spec.axis_length;
    for (const [x, y, z, tone] of AXES) {
      const end = new THREE.Vector3(x, y, z).multiplyScalar(reach);
      const axis = new THREE.Mesh(new THREE.CylinderGeometry(0.004, 0.004, reach, 8), new THREE.MeshBasicMaterial({ color: tone }));
      axis.position.copy(end).multiplyScalar(0.5);
      axis.quaternion.setFromUnitVectors(new THREE.Vector3(0, 1, 0), end.clone().normalize());
      node.add(axis);
    }
    this.scene.add(node);
    return node;
  }

  frustum({ camera, node }, frame) {
    const at = camera.moves ? frame : 0;
    const [K, pose] = [camera.K[Math.min(at, camera.K.length - 1)], camera.world_from_camera[at]];
    const depth = 0.14 * this.radius;
    const world = (x, y, z) => new THREE.Vector3(...[0, 1, 2].map((i) => pose[i][0] * x + pose[i][1] * y + pose[i][2] * z + pose[i][3]));
    const corner = (u, v) => world((depth * (u - K[0][2])) / K[0][0], (depth * (v - K[1][2])) / K[1][1], depth);
    const c = [corner(0, 0), corner(camera.width, 0), corner(camera.width, camera.height), corner(0, camera.height)];
    const apex = world(0, 0, 0);
    const up = corner(camera.width / 2, -0.25 * camera.height);
    const points = [];
    for (let i = 0; i < 4; i += 1) points.push(c[i], c[(i + 1) % 4], apex, c[i]);
    points.push(c[0], up, up, c[1]);
    node.geometry.setFromPoints(points);
    node.geometry.computeBoundingSphere();
    node.userData.apex = apex;
  }

  paint() {
    const rule = colour("--rule");
    this.grid.material.vertexColors = false;
    this.grid.material.color = rule;
    this.grid.material.needsUpdate = true;
    for (const { node } of this.cameras) node.material.color = colour("--accent");
  }

  home() {
    this.distance = 2.3 * this.radius;
    this.look(-0.85, 0.42);
  }

  look(yaw, pitch) {
    [this.yaw, this.pitch] = [yaw, pitch];
    this.draw(this.frame);
  }

  turn(yaw, pitch, zoom = 1) {
    this.yaw += yaw;
    this.pitch = Math.max(-1.5, Math.min(1.5697, this.pitch + pitch));
    this.distance = Math.max(0.2 * this.radius, Math.min(12 * this.radius, this.distance * zoom));
    this.draw(this.frame);
  }

  listen() {
    let last = null;
    this.canvas.addEventListener("pointerdown", (event) => { last = event; this.canvas.setPointerCapture(event.pointerId); });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!last) return;
      this.turn((last.clientX - event.clientX) * 0.008, (event.clientY - last.clientY) * 0.006);
      last = event;
    });
    for (const name of ["pointerup", "pointercancel"]) this.canvas.addEventListener(name, () => { last = null; });
    this.canvas.addEventListener("wheel", (event) => {
      // A page that is scrolled past stays as it is.
      if (document.activeElement !== this.canvas && !event.ctrlKey) return;
      event.preventDefault();
      this.turn(0, 0, Math.exp(0.0012 * event.deltaY));
    }, { passive: false });
    const keys = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1],
      "+": [0, 0, 1 / 1.15], "=": [0, 0, 1 / 1.15], "-": [0, 0, 1.15] };
    this.canvas.addEventListener("keydown", (event) => {
      if (event.key === "0") this.home();
      else if (keys[event.key]) this.turn(...keys[event.key]);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.node;
    if (!width || !height) return;
    this.renderer.setPixelRatio(Math.min(2, devicePixelRatio));
    this.renderer.setSize(width, height, false);
    this.eye.aspect = width / height;
    this.eye.updateProjectionMatrix();
    this.draw(this.frame);
  }

  draw(frame) {
    this.frame = frame;
    for (const { all, quaternion, node } of this.grippers) {
      node.visible = Boolean(all[frame]);
      if (!node.visible) continue;
      node.position.copy(all[frame]);
      node.quaternion.set(...quaternion[frame]);
    }
    const { cos, sin } = Math;
    this.eye.position.set(cos(this.pitch) * cos(this.yaw), cos(this.pitch) * sin(this.yaw), sin(this.pitch)).multiplyScalar(this.distance).add(this.centre);
    this.eye.lookAt(this.centre);
    this.eye.updateMatrixWorld();
    for (const one of this.cameras) {
      if (one.camera.moves) this.frustum(one, frame);
      const p = one.node.userData.apex.clone().project(this.eye);
      const [x, y] = [((p.x + 1) / 2) * this.node.clientWidth, ((1 - p.y) / 2) * this.node.clientHeight];
      one.label.style.transform = `translate(${x.toFixed(1)}px, ${y.toFixed(1)}px) translate(-50%, 6px)`;
      one.label.style.visibility = p.z < 1 && Math.abs(p.x) < 1 && Math.abs(p.y) < 1 ? "visible" : "hidden";
    }
    this.renderer.render(this.scene, this.eye);
  }

  close() {
    this.watch.disconnect();
    this.dark.removeEventListener("change", this.theme);
    this.scene.traverse((node) => { node.geometry?.dispose(); node.material?.dispose?.(); });
    this.renderer.dispose();
    this.renderer.forceContextLoss();
  }
}

// Turning the scene: the same projection as plots.project, with the points that the SVG carries.
for (const space of document.querySelectorAll(".space")) {
  const svg = space.querySelector("svg");
  const home = [Number(svg.dataset.yaw), Number(svg.dataset.pitch), Number(svg.dataset.zoom)];
  let [yaw, pitch, zoom] = home;
  const marks = [...svg.querySelectorAll("[data-p]")].map((node) => [node, node.dataset.p.split(" ").map(Number)]);
  const draw = () => {
    const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
    for (const [node, p] of marks) {
      const at = [];
      for (let i = 0; i < p.length; i += 3) {
        const x = cy * p[i] - sy * p[i + 1];
        const y = sy * p[i] + cy * p[i + 1];
        at.push([(100 * zoom * x).toFixed(2), (-100 * zoom * (cp * p[i + 2] + sp * y)).toFixed(2)]);
      }
      if (node.tagName === "polyline") node.setAttribute("points", at.map((a) => a.join()).join(" "));
      else {
        const [h, v] = node.tagName === "text" ? ["x", "y"] : ["cx", "cy"];
        node.setAttribute(h, at[0][0]);
        node.setAttribute(v, at[0][1]);
      }
    }
  };
  const fit = () => {
    // As plots.scene does it for the first view: everything inside 100 x 60 units from the centre.
    zoom = 1;
    draw();
    const at = marks.flatMap(([node]) => {
      if (node.tagName === "polyline") return [...node.points].map((p) => [Math.abs(p.x), Math.abs(p.y)]);
      return [];
    });
    zoom = Math.min(95 / Math.max(...at.map((a) => a[0]), 1), 56 / Math.max(...at.map((a) => a[1]), 1));
  };
  const turn = (dyaw, dpitch, factor = 1) => {
    yaw += dyaw;
    pitch = Math.min(Math.PI / 2, Math.max(-0.2, pitch + dpitch));
    zoom = Math.min(12, Math.max(0.2, zoom * factor));
    draw();
  };
  const look = (view) => {
    [yaw, pitch] = { above: [0, Math.PI / 2], front: [-Math.PI / 2, 0], side: [0, 0] }[view] || home;
    fit();
    turn(0, 0);
  };
  let last = null;
  svg.addEventListener("pointerdown", (event) => {
    last = [event.clientX, event.clientY];
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener("pointermove", (event) => {
    if (!last) return;
    turn((last[0] - event.clientX) * -0.008, (event.clientY - last[1]) * 0.006);
    last = [event.clientX, event.clientY];
  });
  for (const name of ["pointerup", "pointercancel"]) svg.addEventListener(name, () => { last = null; });
  const keys = {
    ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1],
    "+": [0, 0, 1.15], "=": [0, 0, 1.15], "-": [0, 0, 1 / 1.15],
  };
  svg.addEventListener("keydown", (event) => {
    if (event.key === "0") look("home");
    else if (keys[event.key]) turn(...keys[event.key]);
    else return;
    event.preventDefault();
  });
  space.querySelector(".turn").hidden = false;
  for (const button of space.querySelectorAll("button")) button.addEventListener("click", () => look(button.value));
}
for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.previousElementSibling.textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}
// The entry of the section that is being read.
const entries = new Map([...document.querySelectorAll("nav a")].map((a) => [a.getAttribute("href").slice(1), a]));
const watch = new IntersectionObserver((seen) => {
  for (const { target, isIntersecting } of seen) {
    if (isIntersecting) entries.get(target.id)?.setAttribute("aria-current", "true");
    else entries.get(target.id)?.removeAttribute("aria-current");
  }
}, { rootMargin: "-30% 0px -69% 0px" });
for (const section of document.querySelectorAll("section[id]")) watch.observe(section);

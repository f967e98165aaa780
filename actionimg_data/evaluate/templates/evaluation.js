// The slider of a prediction: one picture a frame, and what is said of it.
for (const player of document.querySelectorAll(".player")) {
  const frames = [...player.querySelectorAll("img")];
  const slider = player.querySelector("input");
  const says = player.querySelector("output");
  const show = () => {
    frames.forEach((frame, i) => { frame.hidden = i !== Number(slider.value); });
    says.textContent = frames[Number(slider.value)].alt;
  };
  slider.addEventListener("input", show);
  player.querySelector(".bar").hidden = false;
  show();
}
const entries = new Map([...document.querySelectorAll("nav a")].map((a) => [a.getAttribute("href").slice(1), a]));
const watch = new IntersectionObserver((seen) => {
  for (const { target, isIntersecting } of seen) {
    if (isIntersecting) entries.get(target.id)?.setAttribute("aria-current", "true");
    else entries.get(target.id)?.removeAttribute("aria-current");
  }
}, { rootMargin: "-30% 0px -69% 0px" });
for (const section of document.querySelectorAll("section[id]")) watch.observe(section);

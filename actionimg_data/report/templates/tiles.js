// The grid: videos run while they are in sight, words filter it, a list orders it.
for (const box of document.querySelectorAll(".wallbox")) {
  const list = box.querySelector(".wall");
  const tiles = [...list.children];
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const start = (video) => { video.play().catch(() => {}); };
  const watch = new IntersectionObserver((seen) => {
    for (const { target, isIntersecting } of seen) {
      if (isIntersecting) start(target);
      else target.pause();
    }
  });
  for (const tile of tiles) {
    const video = tile.querySelector("video");
    if (!video) continue;
    if (!still) {
      watch.observe(video);
      continue;
    }
    tile.addEventListener("pointerenter", () => start(video));
    tile.addEventListener("pointerleave", () => video.pause());
    tile.addEventListener("focus", () => start(video));
    tile.addEventListener("blur", () => video.pause());
  }
  const search = box.querySelector("input");
  const order = box.querySelector("select");
  const says = box.querySelector("output");
  const show = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const tile of tiles) {
      const text = tile.textContent.toLowerCase();
      tile.hidden = !words.every((word) => text.includes(word));
      left += tile.hidden ? 0 : 1;
    }
    says.textContent = left === tiles.length ? `${left}` : `${left} of ${tiles.length}`;
  };
  search.addEventListener("input", show);
  order.addEventListener("change", () => {
    const by = order.value;
    // What has no value is last.
    const value = (tile) => (tile.dataset[by] === "" ? -Infinity : Number(tile.dataset[by]));
    list.append(...(by === "number" ? [...tiles].sort((a, b) => value(a) - value(b)) : [...tiles].sort((a, b) => value(b) - value(a))));
  });
  box.querySelector(".walltools").hidden = false;
  show();
}

(() => {
  "use strict";
  const root = document.documentElement;
  const fall = document.querySelector(".fall");
  let zoom = 1;

  function zoomTo(next, at) {
    if (!fall) return;
    next = Math.min(200, Math.max(1, next));
    const middle = at === undefined ? fall.clientWidth / 2 : at;
    const share = (fall.scrollLeft + middle) / fall.scrollWidth;
    zoom = next;
    fall.firstElementChild.style.setProperty("--zoom", zoom);
    fall.scrollLeft = share * fall.scrollWidth - middle;
  }

  const actions = {
    in: () => zoomTo(zoom * 1.6),
    out: () => zoomTo(zoom / 1.6),
    fit: () => zoomTo(1),
    theme: () => {
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
    },
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-do]");
    if (button) actions[button.dataset.do]();
  });

  if (fall) {
    fall.addEventListener("keydown", (event) => {
      const act = { "+": actions.in, "=": actions.in, "-": actions.out, 0: actions.fit }[event.key];
      if (act && !event.ctrlKey && !event.metaKey) {
        event.preventDefault();
        act();
      }
    });
    fall.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      zoomTo(zoom * (event.deltaY < 0 ? 1.25 : 0.8), event.clientX - fall.getBoundingClientRect().left);
    }, { passive: false });
  }

  const filter = document.querySelector("input[type=search]");
  if (filter) {
    const rows = [...document.querySelectorAll("table.attempts tbody tr")].map((row) => [row, row.textContent.toLowerCase()]);
    filter.addEventListener("input", () => {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const [row, text] of rows) row.hidden = !words.every((word) => text.includes(word));
    });
  }
})();

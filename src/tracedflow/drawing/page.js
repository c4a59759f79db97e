"use strict";
(() => {
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const main = document.querySelector("main");
  const svg = main.querySelector("svg");
  const panel = document.querySelector("aside");
  const boxes = [...svg.querySelectorAll(".b")];
  const arrows = [...svg.querySelectorAll(".a")];
  const byId = new Map(boxes.map((box) => [box.dataset.id, box]));
  const whole = svg.viewBox.baseVal, width = whole.width, height = whole.height;
  const embedded = window.top !== window;
  let scale = 1, left = 0, top = 0, opened = null;

  // The browser's own tooltips would cover ours; screen readers have the labels.
  for (const title of svg.querySelectorAll(".b > title")) title.remove();
  svg.removeAttribute("width");
  svg.removeAttribute("height");

  const draw = () => svg.setAttribute("viewBox", [left, top, main.clientWidth / scale, main.clientHeight / scale].join(" "));
  const bounded = (value) => Math.min(4, Math.max(0.05, value));

  function fit(least) {
    const legend = main.querySelector(".legend");
    const covered = legend && legend.offsetHeight ? legend.offsetHeight + 12 : 0;  // the legend lies over the lower edge
    const wide = main.clientWidth, high = main.clientHeight - covered;
    scale = bounded(Math.max(least, Math.min(1.3, wide / width, high / height)));
    left = (width - wide / scale) / 2;
    top = height * scale <= high ? (height - high / scale) / 2 : 0;
    draw();
  }

  function zoom(factor, x = main.clientWidth / 2, y = main.clientHeight / 2) {
    const next = bounded(scale * factor);
    left += x / scale - x / next;
    top += y / scale - y / next;
    scale = next;
    draw();
  }

  function pan(x, y) {
    left += x / scale;
    top += y / scale;
    draw();
  }

  function reveal(box) {
    const seen = main.getBoundingClientRect(), at = box.getBoundingClientRect(), edge = 24;
    const off = (low, high, from, to) => (low < from + edge ? low - from - edge : high > to - edge ? high - to + edge : 0);
    const x = off(at.left, at.right, seen.left, seen.right), y = off(at.top, at.bottom, seen.top, seen.bottom);
    if (x || y) pan(x, y);
  }

  function add(parent, name, text, css) {
    const made = parent.appendChild(document.createElement(name));
    if (text !== undefined) made.textContent = text;
    if (css) made.className = css;
    return made;
  }

  function tell(id) {
    const known = facts[id];
    panel.replaceChildren();
    add(panel, "h2", known.name);
    add(panel, "div", known.kind, "kind");
    if (known.notes.length) add(panel, "div", known.notes.join(" · "), "notes");
    if (known.text) add(panel, "div", known.text, "text");
    const list = add(panel, "dl");
    for (const [name, value] of known.facts) {
      add(list, "dt", name);
      add(list, "dd", value);
    }
    if (known.table) {
      const table = add(panel, "table"), head = add(add(table, "thead"), "tr"), body = add(table, "tbody");
      for (const name of known.table.head) add(head, "th", name).scope = "col";
      for (const row of known.table.rows) {
        const line = add(body, "tr");
        for (const cell of row) add(line, "td", cell, ["error", "timeout", "stalled"].includes(cell) ? "failed" : "");
      }
      if (known.table.more) add(panel, "p", `and ${known.table.more.toLocaleString("en")} more executions`, "more");
    }
  }

  function light(id) {
    svg.classList.toggle("has-focus", id !== null);
    for (const each of svg.querySelectorAll(".near")) each.classList.remove("near");
    if (id === null) return;
    byId.get(id).classList.add("near");
    for (const arrow of arrows) {
      const { from, to } = arrow.dataset;
      if (from !== id && to !== id) continue;
      arrow.classList.add("near");
      byId.get(from === id ? to : from)?.classList.add("near");
    }
  }

  function look(id) {
    light(id ?? opened);
    if (id ?? opened) tell(id ?? opened);
    else idle();
  }

  function idle() {
    panel.replaceChildren();
    add(panel, "p", "Point at a box to see its types, fields and times; click to keep it. Tab goes from box to box, Enter keeps, Escape lets go. Arrow keys move, + and − zoom, 0 fits.", "hint");
  }

  function open(id) {
    opened = opened === id ? null : id;
    for (const box of boxes) box.classList.toggle("is-open", box.dataset.id === opened);
    look(null);
  }

  for (const box of boxes) {
    const id = box.dataset.id;
    box.addEventListener("pointerenter", () => { if (!drag) look(id); });
    box.addEventListener("pointerleave", () => { if (!drag) look(null); });
    box.addEventListener("focus", () => { look(id); if (box.matches(":focus-visible")) reveal(box); });
    box.addEventListener("blur", () => look(null));
  }

  let drag = null;
  main.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    drag = { x: event.clientX, y: event.clientY, far: 0, id: event.target.closest?.(".b")?.dataset.id ?? null };
  });
  window.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const x = event.clientX - drag.x, y = event.clientY - drag.y;
    drag.far += Math.abs(x) + Math.abs(y);
    if (drag.far > 4) main.classList.add("drags");
    drag.x = event.clientX;
    drag.y = event.clientY;
    pan(-x, -y);
  });
  const drop = () => {
    if (drag && drag.far <= 4) open(drag.id === null ? opened : drag.id);
    drag = null;
    main.classList.remove("drags");
  };
  window.addEventListener("pointerup", drop);
  window.addEventListener("pointercancel", () => { drag = null; });

  main.addEventListener("wheel", (event) => {
    if (embedded && !event.ctrlKey && !event.metaKey) return;  // the notebook around it scrolls
    event.preventDefault();
    const at = main.getBoundingClientRect();
    zoom(Math.exp(-Math.max(-60, Math.min(60, event.deltaY)) / 240), event.clientX - at.left, event.clientY - at.top);
  }, { passive: false });

  const actions = {
    in: () => zoom(1.25), out: () => zoom(0.8), fit: () => fit(0),
    theme: () => {
      const root = document.documentElement, now = root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
      root.dataset.theme = now === "dark" ? "light" : "dark";
    },
  };
  for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", actions[button.dataset.do]);

  const keys = {
    "+": actions.in, "=": actions.in, "-": actions.out, "0": actions.fit,
    ArrowLeft: () => pan(-60, 0), ArrowRight: () => pan(60, 0), ArrowUp: () => pan(0, -60), ArrowDown: () => pan(0, 60),
    Escape: () => open(opened),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const box = event.target.closest?.(".b");
    if (box && (event.key === "Enter" || event.key === " ")) {
      open(box.dataset.id);
      event.preventDefault();
    } else if (keys[event.key] && !event.target.closest?.("aside")) {
      keys[event.key]();
      event.preventDefault();
    }
  });

  new ResizeObserver(draw).observe(main);
  idle();
  panel.hidden = false;
  fit(0.6);
})();

// The map: drag, pinch, wheel, buttons or keys move it; a picture is chosen by tap, key or link.
"use strict";
(function () {
  const data = JSON.parse(document.getElementById("map-data").textContent);
  const canvas = document.getElementById("map-canvas");
  const panel = document.getElementById("map-panel");
  const chooser = document.getElementById("map-class");
  const paint = canvas.getContext("2d");
  const sheets = [...document.querySelectorAll("#map-sheets img")];
  const count = data.x.length, size = data.size, side = data.side;
  let view = { scale: 1, x: 0, y: 0 };  // shift in pixels of the page
  let chosen = -1, over = -1, shownClass = null, planned = false;
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function cut(target, index, x, y, width) {
    const place = index % (side * side);
    target.drawImage(sheets[Math.floor(index / (side * side))],
      (place % side) * size, Math.floor(place / side) * size, size, size, x, y, width, width);
  }
  function extent() {
    const margin = 28, width = canvas.clientWidth, height = canvas.clientHeight;
    return { margin, width: width - 2 * margin, height: height - 2 * margin };
  }
  function place(index) {
    const box = extent();
    return [box.margin + view.x + data.x[index] / 1e4 * box.width * view.scale,
      box.margin + view.y + data.y[index] / 1e4 * box.height * view.scale];
  }
  // pictures fill the map once at first and grow slower than the distances do
  function pictureSide() {
    const box = extent();
    const first = Math.sqrt(0.9 * box.width * box.height / count);
    return Math.min(Math.max(first, 9) * Math.pow(view.scale, 0.7), 1.5 * size, 96);
  }
  function draw() {
    planned = false;
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * ratio);
    const height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width; canvas.height = height;
    }
    paint.setTransform(ratio, 0, 0, ratio, 0, 0);
    paint.clearRect(0, 0, width, height);
    const same = colour("--same"), other = colour("--other"), accent = colour("--accent");
    const width0 = pictureSide();
    function one(index, width, edge, strong) {
      const [x, y] = place(index);
      if (x < -width || y < -width || x > canvas.clientWidth + width ||
          y > canvas.clientHeight + width) return;
      cut(paint, index, x - width / 2, y - width / 2, width);
      paint.lineWidth = strong ? 4 : Math.max(1, Math.min(3, width / 20));
      paint.strokeStyle = edge;
      paint.strokeRect(x - width / 2, y - width / 2, width, width);
    }
    const edge = (index) => data.right[index] ? same : other;
    const raised = [];
    for (let index = 0; index < count; index++) {
      if (shownClass !== null && data.label[index] === shownClass) { raised.push(index); continue; }
      paint.globalAlpha = shownClass === null ? 1 : 0.13;
      one(index, width0, edge(index), false);
    }
    paint.globalAlpha = 1;
    for (const index of raised) one(index, Math.max(width0 * 1.25, 22), edge(index), false);
    if (chosen >= 0) {
      for (const near of data.near[chosen]) one(near, Math.max(width0 * 1.3, 22), edge(near), false);
      one(chosen, Math.max(width0 * 1.8, 36), accent, true);
    }
    if (over >= 0 && over !== chosen) one(over, Math.max(width0 * 1.8, 48), accent, true);
    canvas.dataset.drawn = String(count);
  }
  function plan() { if (!planned) { planned = true; requestAnimationFrame(draw); } }

  function nearest(x, y) {
    let best = -1, least = Math.pow(Math.max(pictureSide() * 0.75, 14), 2);
    for (let index = 0; index < count; index++) {
      if (shownClass !== null && data.label[index] !== shownClass) continue;
      const [px, py] = place(index), distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least) { least = distance; best = index; }
    }
    return best;
  }
  function zoom(factor, x, y) {
    const before = view.scale, margin = extent().margin;
    if (x === undefined) { x = canvas.clientWidth / 2; y = canvas.clientHeight / 2; }
    view.scale = Math.min(Math.max(before * factor, 1), 40);
    const grown = view.scale / before;
    view.x = x - margin - (x - margin - view.x) * grown;
    view.y = y - margin - (y - margin - view.y) * grown;
    settle();
  }
  // the map never leaves its frame; at rest, one finger scrolls the page past it
  function settle() {
    const box = extent();
    view.x = Math.min(0, Math.max(view.x, box.width * (1 - view.scale)));
    view.y = Math.min(0, Math.max(view.y, box.height * (1 - view.scale)));
    canvas.style.touchAction = view.scale > 1 ? "none" : "pan-y";
    plan();
  }
  function centre(index) {
    const [x, y] = place(index);
    view.x += canvas.clientWidth / 2 - x; view.y += canvas.clientHeight / 2 - y;
    settle();
  }
  function show(index) {
    const [x, y] = place(index), room = 40;
    if (x < room || y < room || x > canvas.clientWidth - room ||
        y > canvas.clientHeight - room) centre(index);
  }

  function element(name, text, className) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }
  function small(index, width) {
    const made = element("canvas");
    made.width = made.height = width;
    made.setAttribute("role", "img");
    made.setAttribute("aria-label", data.classes[data.label[index]] + ", " + data.name[index]);
    cut(made.getContext("2d"), index, 0, 0, width);
    return made;
  }
  function button(index, same) {
    const made = element("button", undefined, same ? "same" : "other");
    made.type = "button";
    made.title = data.classes[data.label[index]] + "\n" + data.name[index];
    made.append(small(index, size));
    made.addEventListener("click", () => { choose(index); show(index); });
    return made;
  }
  function className(label) {
    const row = document.getElementById("class-" + label);
    const made = element(row ? "a" : "span", data.classes[label]);
    if (row) made.href = "#class-" + label;
    return made;
  }
  function choose(index) {
    chosen = index;
    panel.replaceChildren();
    const heading = element("strong");
    heading.append(className(data.label[index]));
    panel.append(small(index, 2 * size), heading, element("div", data.name[index], "note"));
    const near = element("div", undefined, "near");
    for (const other of data.near[index]) near.append(button(other, data.label[other] === data.label[index]));
    panel.append(element("p", "Most similar images:", "note"), near);
    plan();
  }
  function chooseClass(label) {
    shownClass = label;
    chooser.value = label === null ? "" : String(label);
    chosen = -1;
    panel.replaceChildren();
    if (label !== null) {
      const heading = element("strong");
      heading.append(className(label));
      const near = element("div", undefined, "near");
      let number = 0;
      for (let index = 0; index < count; index++) {
        if (data.label[index] !== label) continue;
        number += 1;
        near.append(button(index, data.right[index]));
      }
      panel.append(heading, element("p", number + (number === 1 ? " image" : " images") +
        "; red: another class is found first", "note"), near);
    } else panel.append(element("p", data.hint, "note"));
    plan();
  }

  const fingers = new Map();
  let moved = 0, gap = 0;
  const spot = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, spot(event)); moved = 0; gap = 0;
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = spot(event), last = fingers.get(event.pointerId);
    if (!last) {
      const found = nearest(x, y);
      if (found !== over) {
        over = found;
        canvas.title = over < 0 ? "" : data.classes[data.label[over]] + "\n" + data.name[over];
        canvas.style.cursor = over < 0 ? "grab" : "pointer";
        plan();
      }
      return;
    }
    fingers.set(event.pointerId, [x, y]);
    if (fingers.size === 2) {
      const [a, b] = [...fingers.values()], now = Math.hypot(a[0] - b[0], a[1] - b[1]);
      if (gap) zoom(now / gap, (a[0] + b[0]) / 2, (a[1] + b[1]) / 2);
      gap = now; moved += 99;
    } else {
      moved += Math.hypot(x - last[0], y - last[1]);
      view.x += x - last[0]; view.y += y - last[1];
      settle();
    }
  });
  const lift = (event) => {
    const known = fingers.delete(event.pointerId);
    gap = 0;
    if (known && event.type === "pointerup" && moved < 8) {
      const found = nearest(...spot(event));
      if (found >= 0) choose(found);
    }
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  canvas.addEventListener("pointerleave", () => { if (over >= 0) { over = -1; plan(); } });
  canvas.addEventListener("wheel", (event) => {
    // else one could not scroll past the map
    if (!event.ctrlKey && document.activeElement !== canvas) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 300), ...spot(event));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
    if (step[event.key]) { view.x += step[event.key][0]; view.y += step[event.key][1]; settle(); }
    else if (event.key === "+" || event.key === "=") zoom(1.5);
    else if (event.key === "-") zoom(1 / 1.5);
    else if (event.key === "Enter") {
      const found = nearest(canvas.clientWidth / 2, canvas.clientHeight / 2);
      choose(found >= 0 ? found : 0);
    } else return;
    event.preventDefault();
  });
  document.getElementById("map-in").addEventListener("click", () => zoom(1.6));
  document.getElementById("map-out").addEventListener("click", () => zoom(1 / 1.6));
  document.getElementById("map-all").addEventListener("click", () => {
    view = { scale: 1, x: 0, y: 0 }; settle(); chooseClass(null);
  });
  chooser.addEventListener("change", () =>
    chooseClass(chooser.value === "" ? null : Number(chooser.value)));
  // links from the other sections
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-image], a[data-class]");
    if (!link) return;
    if (link.dataset.image !== undefined) {
      const index = Number(link.dataset.image);
      // near enough to see it among its neighbours
      view.scale = Math.max(view.scale, 4);
      chooseClass(null); choose(index); centre(index);
    } else chooseClass(Number(link.dataset.class));
  });
  for (const name of Object.keys(data.classes).sort((a, b) =>
    data.classes[a].localeCompare(data.classes[b], undefined, { numeric: true }))) {
    const option = element("option", data.classes[name]);
    option.value = name;
    chooser.append(option);
  }
  new ResizeObserver(settle).observe(canvas);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", plan);
  chooseClass(null);
  // what was chosen meanwhile is shown again, with its pictures
  Promise.all(sheets.map((sheet) => sheet.decode())).then(() => {
    if (chosen >= 0) choose(chosen); else if (shownClass !== null) chooseClass(shownClass);
    draw();
  });
})();

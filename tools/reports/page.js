"use strict";
// The parts of the page that fold and that are drawn: matrix, tree, map. Names of classes enter the
// page as text only (textContent), never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { names, levels, parents, images, runs } = data.tree;
  const children = names.map(() => []);
  const tops = [];
  parents.forEach((parent, node) => (parent < 0 ? tops : children[parent]).push(node));
  const byId = (id) => document.getElementById(id);
  const percent = (share) => `${(100 * share).toFixed(1)}%`;
  const SVG = "http://www.w3.org/2000/svg";
  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  // A canvas of width x height CSS pixels, sharp on any screen; returns its context.
  const canvasOf = (canvas, width, height) => {
    const scale = Math.max(2, window.devicePixelRatio || 1);
    const whole = Math.min(scale, 16000 / Math.max(width, height));
    canvas.width = Math.round(width * whole);
    canvas.height = Math.round(height * whole);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const context = canvas.getContext("2d");
    context.scale(whole, whole);
    context.clearRect(0, 0, width, height);
    return context;
  };
  const place = (canvas, event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  // ---- matrix
  const ROW = 20, HEADER = 96, MOST_ROWS = 700;
  const matrix = { open: new Set(), run: 0, rows: [], columns: [], cells: new Map(), width: 0, top: 0 };

  // Rows in the order of the tree: {node, cell: whether it has cells}; open nodes only have a name.
  const visible = (open) => {
    const rows = [];
    const walk = (node, depth) => {
      const unfolded = open.has(node) && children[node].length > 0;
      rows.push({ node, depth, cell: !unfolded });
      if (unfolded) children[node].forEach((child) => walk(child, depth + 1));
    };
    tops.forEach((node) => walk(node, 0));
    return rows;
  };
  const unfoldedTo = (limit) => {
    const open = new Set();
    for (let level = data.levels.length - 1; level > 0; level--) {
      const more = new Set(open);
      levels.forEach((of, node) => of === level && more.add(node));
      if (visible(more).length > limit) break;
      more.forEach((node) => open.add(node));
    }
    return open;
  };
  const sumUp = () => {
    const column = new Map();
    matrix.columns.forEach((node, i) => column.set(node, i));
    const at = (node) => {
      while (!column.has(node)) node = parents[node];
      return column.get(node);
    };
    const found = runs[matrix.run].pairs, count = matrix.columns.length;
    matrix.cells = new Map();
    for (let i = 0; i < found.length; i += 3) {
      const cell = at(found[i]) * count + at(found[i + 1]);
      matrix.cells.set(cell, (matrix.cells.get(cell) || 0) + found[i + 2]);
    }
  };
  const drawMatrix = () => {
    matrix.rows = visible(matrix.open);
    matrix.columns = matrix.rows.filter((row) => row.cell).map((row) => row.node);
    sumUp();
    const box = byId("matrix"), list = byId("matrix-names"), count = matrix.columns.length;
    const space = box.clientWidth - list.clientWidth - 2;
    matrix.width = Math.min(64, space / count);
    matrix.top = matrix.width >= 14 ? HEADER : 4;
    const tilt = matrix.top === HEADER ? 60 : 0; // the last names lean over the right edge
    if (tilt && matrix.width * count + tilt > space) matrix.width = Math.max(4, (space - tilt) / count);
    const wide = matrix.width * count;
    const context = canvasOf(byId("matrix-cells"), Math.min(space, wide + tilt), matrix.top + ROW * matrix.rows.length + 2);
    let line = 0, y = matrix.top;
    if (tilt) {
      context.font = "11px system-ui, sans-serif";
      context.fillStyle = "#333";
      matrix.columns.forEach((node, i) => {
        context.save();
        context.translate((i + 0.65) * matrix.width, matrix.top - 4);
        context.rotate(-Math.PI / 3);
        context.fillText(names[node].length > 17 ? `${names[node].slice(0, 16)}…` : names[node], 0, 0);
        context.restore();
      });
    }
    for (const row of matrix.rows) {
      if (row.cell) {
        const all = images[row.node] || 1;
        for (let i = 0; i < count; i++) {
          const share = (matrix.cells.get(line * count + i) || 0) / all;
          const strength = Math.round(100 * (share ? 0.12 + 0.88 * Math.sqrt(share) : 0));
          context.fillStyle = share ? (i === line ? `hsl(208 75% ${98 - 0.58 * strength}%)` : `hsl(354 80% ${97 - 0.5 * strength}%)`) : "#f4f4f4";
          const gap = matrix.width > 6 ? 1 : 0;
          context.fillRect(i * matrix.width, y, matrix.width - gap, ROW - 1);
          if (share && matrix.width >= 34) {
            context.fillStyle = strength > 60 ? "#fff" : "#222";
            context.font = "10.5px system-ui, sans-serif";
            context.textAlign = "center";
            context.fillText(`${Math.round(100 * share)}`, (i + 0.5) * matrix.width, y + 14);
          }
        }
        line++;
      }
      y += ROW;
    }
    list.replaceChildren();
    const head = element("div");
    head.style.height = `${matrix.top}px`;
    list.append(head);
    for (const row of matrix.rows) {
      const folds = children[row.node].length > 0;
      const name = element(folds ? "button" : "div", "name");
      name.append(element("span", "", names[row.node]));
      name.title = names[row.node];
      name.style.paddingLeft = `${Math.min(row.depth, 4) * 10}px`;
      if (folds) {
        name.type = "button";
        name.dataset.node = row.node;
        name.setAttribute("aria-expanded", row.cell ? "false" : "true");
      }
      list.append(name);
    }
  };
  const foldMatrix = (open) => {
    if (visible(open).length > MOST_ROWS) {
      byId("matrix-status").textContent = `More than ${MOST_ROWS} rows: unfold single classes instead.`;
      return;
    }
    matrix.open = open;
    drawMatrix();
  };
  byId("matrix-names").addEventListener("click", (event) => {
    const name = event.target.closest("button.name");
    if (!name) return;
    const open = new Set(matrix.open), node = Number(name.dataset.node);
    if (!open.delete(node)) open.add(node);
    foldMatrix(open);
    const again = byId("matrix-names").querySelector(`[data-node="${node}"]`);
    if (again) again.focus({ preventScroll: true });
  });
  byId("matrix-unfold").addEventListener("click", () => foldMatrix(new Set(names.keys())));
  byId("matrix-fold").addEventListener("click", () => foldMatrix(new Set()));
  const readCell = (event) => {
    const [x, y] = place(byId("matrix-cells"), event);
    const row = matrix.rows[Math.floor((y - matrix.top) / ROW)], i = Math.floor(x / matrix.width);
    if (!row || !row.cell || i < 0 || i >= matrix.columns.length) return;
    const line = matrix.columns.indexOf(row.node);
    const found = matrix.cells.get(line * matrix.columns.length + i) || 0, all = images[row.node];
    const said = matrix.columns[i];
    byId("matrix-status").textContent = `${names[row.node]} ${said === row.node ? "recognized" : `taken for ${names[said]}`}: ${found} of ${all} images${all ? ` (${percent(found / all)})` : ""}`;
  };
  byId("matrix-cells").addEventListener("mousemove", readCell);
  byId("matrix-cells").addEventListener("click", readCell);
  const chosenRun = byId("matrix-run");
  if (chosenRun) chosenRun.addEventListener("change", () => { matrix.run = Number(chosenRun.value); drawMatrix(); });

  // ---- tree
  const bar = (share, color, pale) => {
    const drawn = document.createElementNS(SVG, "svg");
    drawn.setAttribute("class", "bar");
    drawn.setAttribute("viewBox", "0 0 100 12");
    drawn.setAttribute("preserveAspectRatio", "none");
    [["100", "#eee", 1], [String(100 * share), color, pale ? 0.35 : 0.8]].forEach(([wide, fill, opacity]) => {
      const part = document.createElementNS(SVG, "rect");
      part.setAttribute("width", wide);
      part.setAttribute("height", "12");
      part.setAttribute("fill", fill);
      part.setAttribute("opacity", opacity);
      drawn.append(part);
    });
    return drawn;
  };
  const nodeOf = (node) => {
    const line = element("span", "node"), title = element("span", "", names[node]);
    title.append(" ", element("span", "of", `${data.levels[levels[node]]}, ${images[node]} ${images[node] === 1 ? "image" : "images"}`));
    const values = element("span", "values");
    for (const run of runs) {
      for (const [shares, pale] of levels[node] ? [[run.own, false], [run.fine, true]] : [[run.own, false]]) {
        const share = shares[node];
        if (share === null) values.append(element("span"), element("span", "", "–"));
        else values.append(bar(share, run.color, pale), element("span", "", percent(share)));
      }
    }
    line.append(title, values);
    return line;
  };
  const fill = (details, node) => {
    if (details.childElementCount > 1) return;
    children[node].forEach((child) => details.append(branch(child)));
  };
  const branch = (node) => {
    if (!children[node].length) {
      const leaf = element("div", "leaf");
      leaf.append(nodeOf(node));
      return leaf;
    }
    const details = element("details"), summary = element("summary");
    summary.append(nodeOf(node));
    details.append(summary);
    details.addEventListener("toggle", () => details.open && fill(details, node));
    return details;
  };
  tops.forEach((node) => byId("tree-nodes").append(branch(node)));
  const foldTree = (open) => {
    let folds = [...byId("tree-nodes").querySelectorAll(":scope > details")];
    const nodes = new Map(folds.map((details, i) => [details, tops.filter((top) => children[top].length)[i]]));
    while (folds.length) {
      const next = [];
      for (const details of folds) {
        const node = nodes.get(details);
        if (open) fill(details, node);
        details.open = open;
        const below = [...details.querySelectorAll(":scope > details")];
        const inner = children[node].filter((child) => children[child].length);
        below.forEach((one, i) => nodes.set(one, inner[i]));
        next.push(...below);
      }
      folds = next;
    }
  };
  byId("tree-unfold").addEventListener("click", () => foldTree(true));
  byId("tree-fold").addEventListener("click", () => foldTree(false));

  // ---- map
  const maps = data.maps, plane = byId("map");
  const state = { run: 0, level: 0, alone: -1, radius: 3, side: 0 };
  const colorOf = (i, count) => (count <= data.colors.length ? data.colors[i] : `hsl(${Math.round((i * 360) / count)} 70% ${i % 2 ? 38 : 52}%)`);
  const classesOf = (level) => names.map((_, node) => node).filter((node) => levels[node] === level);
  const above = (node, level) => {
    while (levels[node] < level) node = parents[node];
    return node;
  };
  const positionOf = (map, i) => [state.side * (0.03 + (0.94 * map.x[i]) / 1000), state.high * (0.03 + (0.94 * map.y[i]) / 1000)];
  const drawMap = () => {
    const map = maps[state.run], classes = classesOf(state.level);
    const color = new Map(classes.map((node, i) => [node, colorOf(i, classes.length)]));
    state.side = Math.min(plane.parentElement.clientWidth, 720);
    state.high = Math.round(state.side * 0.75);
    const context = canvasOf(plane, state.side, state.high);
    context.fillStyle = "#fafafa";
    context.fillRect(0, 0, state.side, state.high);
    map.x.forEach((_, i) => {
      const of = above(map.true[i], state.level);
      const [x, y] = positionOf(map, i);
      context.globalAlpha = state.alone < 0 || state.alone === of ? 0.85 : 0.07;
      context.beginPath();
      context.arc(x, y, state.radius, 0, 2 * Math.PI);
      if (map.said[i] === map.true[i]) {
        context.fillStyle = color.get(of);
        context.fill();
      } else {
        context.strokeStyle = color.get(of);
        context.lineWidth = 1.4;
        context.stroke();
      }
    });
    context.globalAlpha = 1;
    const legend = byId("map-legend");
    legend.replaceChildren();
    if (classes.length <= 60) {
      classes.forEach((node) => {
        const button = element("button"), dot = document.createElementNS(SVG, "svg");
        dot.setAttribute("viewBox", "0 0 10 10");
        dot.setAttribute("width", "10");
        dot.setAttribute("height", "10");
        const circle = document.createElementNS(SVG, "circle");
        Object.entries({ cx: 5, cy: 5, r: 5, fill: color.get(node) }).forEach(([key, value]) => circle.setAttribute(key, value));
        dot.append(circle);
        button.type = "button";
        button.append(dot, element("span", "", names[node]));
        button.setAttribute("aria-pressed", state.alone === node ? "true" : "false");
        button.addEventListener("click", () => { state.alone = state.alone === node ? -1 : node; drawMap(); });
        legend.append(button);
      });
    }
    if (!byId("map-status").textContent) byId("map-status").textContent = map.about;
  };
  const readPoint = (event) => {
    const map = maps[state.run], [x, y] = place(plane, event);
    let best = -1, least = 15 * 15;
    map.x.forEach((_, i) => {
      const [px, py] = positionOf(map, i), far = (px - x) ** 2 + (py - y) ** 2;
      if (far < least) [best, least] = [i, far];
    });
    if (best < 0) return;
    const right = map.said[best] === map.true[best];
    byId("map-status").textContent = `${map.keys[best]}: ${names[map.true[best]]}${right ? ", recognized" : `, taken for ${names[map.said[best]]}`}`;
  };
  if (maps.length) {
    state.level = data.mapLevel;
    byId("map-level").value = String(state.level);
    byId("map-level").addEventListener("change", (event) => { state.level = Number(event.target.value); state.alone = -1; drawMap(); });
    byId("map-run").addEventListener("change", (event) => {
      state.run = Number(event.target.value);
      byId("map-status").textContent = "";
      drawMap();
    });
    plane.addEventListener("mousemove", readPoint);
    plane.addEventListener("click", readPoint);
  }

  let width = 0;
  const draw = () => {
    if (document.body.clientWidth === width) return;
    width = document.body.clientWidth;
    drawMatrix();
    if (maps.length) drawMap();
  };
  matrix.open = unfoldedTo(window.innerWidth < 640 ? 30 : 62);
  draw();
  window.addEventListener("resize", draw);
})();

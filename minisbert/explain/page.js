"use strict";
// A table is one stop of the Tab key; arrow keys move inside it. The label of the current cell is also shown above the table.
function walk(table) {
  const readout = table.closest("section").querySelector(".readout");
  const show = event => {
    const cell = event.target.closest("td[tabindex]");
    if (cell && readout) readout.textContent = cell.getAttribute("aria-label");
  };
  table.addEventListener("focusin", show);
  table.addEventListener("mouseover", show);
  table.addEventListener("keydown", event => {
    const rows = Array.from(table.tBodies[0].rows, row => row.querySelectorAll("td"));
    const row = event.target.parentNode.sectionRowIndex, column = event.target.cellIndex - 1;
    const lastRow = rows.length - 1, lastColumn = rows[0].length - 1, all = event.ctrlKey || event.metaKey;
    const target = {
      ArrowUp: [row - 1, column], ArrowDown: [row + 1, column],
      ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1],
      Home: [all ? 0 : row, 0], End: [all ? lastRow : row, lastColumn],
    }[event.key];
    if (!target || event.altKey) return;
    event.preventDefault();
    const cell = (rows[target[0]] || [])[target[1]];
    if (!cell) return;
    event.target.tabIndex = -1;
    cell.tabIndex = 0;
    cell.focus();
    cell.scrollIntoView({block: "nearest", inline: "nearest"});
  });
  table.addEventListener("mousedown", event => {
    const cell = event.target.closest("td[tabindex]");
    if (!cell) return;
    table.querySelectorAll('td[tabindex="0"]').forEach(other => { other.tabIndex = -1; });
    cell.tabIndex = 0;
  });
}

function element(name, text, attributes) {
  const made = document.createElement(name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  if (text !== null) made.append(text);
  return made;
}

function heading(scope, token) {
  const made = element("th", null, {scope: scope});
  made.append(element("bdi", token, {}));
  return made;
}

function attention() {
  const maps = JSON.parse(document.getElementById("data").textContent);
  const [which, layer, head] = ["which", "layer", "head"].map(id => document.getElementById(id));
  const [table, gallery] = ["attention", "gallery"].map(id => document.getElementById(id)), steps = 200;
  const decoded = text => Array.from(atob(text), c => c.charCodeAt(0) / steps);
  const options = (select, names) => select.replaceChildren(...names.map((name, i) => element("option", name, {value: i})));
  const numbers = count => Array.from({length: count}, (_, i) => String(i + 1));

  function choose() {
    const heads = maps[which.value].heads;
    const before = [layer.value, head.value];
    options(layer, numbers(heads.length));
    options(head, [...numbers(heads[0].length), "mean of all"]);
    if (before[0] && before[0] < heads.length) layer.value = before[0];
    if (before[1] && before[1] <= heads[0].length) head.value = before[1];
    tiles();
    draw();
  }

  // A small picture of every head: one stop of the Tab key, arrow keys move inside it, as in a table.
  function tiles() {
    const {heads, tokens} = maps[which.value], L = tokens.length;
    gallery.style.gridTemplateColumns = `repeat(${heads[0].length}, 1fr)`;
    gallery.replaceChildren(...heads.flatMap((row, y) => row.map((text, n) => {
      const made = element("button", null, {type: "button", "aria-label": `layer ${y + 1}, head ${n + 1}`});
      const canvas = element("canvas", null, {width: L, height: L}), brush = canvas.getContext("2d");
      decoded(text).forEach((weight, i) => {
        const [r, g, b] = [[247, 8], [247, 68], [247, 136]].map(([low, high]) => low + (high - low) * Math.sqrt(weight));
        brush.fillStyle = `rgb(${r} ${g} ${b})`;
        brush.fillRect(i % L, Math.floor(i / L), 1, 1);
      });
      made.append(canvas);
      made.addEventListener("click", () => { [layer.value, head.value] = [y, n]; draw(); link(); });
      return made;
    })));
  }

  // "#text-1-layer-3-head-7" in the address chooses a head, and follows the choice.
  function link() {
    const number = head.value < maps[which.value].heads[0].length ? Number(head.value) + 1 : "mean";
    history.replaceState(null, "", `#text-${Number(which.value) + 1}-layer-${Number(layer.value) + 1}-head-${number}`);
  }

  function linked() {
    const [, text, y, n] = /^#text-(\d+)-layer-(\d+)-head-(\d+|mean)$/.exec(location.hash) || [];
    const heads = text && maps[text - 1] && maps[text - 1].heads;
    if (!heads || !heads[y - 1] || n !== "mean" && !heads[0][n - 1]) return false;
    which.value = text - 1;
    choose();
    [layer.value, head.value] = [y - 1, n === "mean" ? heads[0].length : n - 1];
    draw();
    return true;
  }

  // The head to open with: where words look at other words, not at themselves, their neighbours, signs, [CLS] or [SEP].
  function liveliest() {
    const {heads, tokens} = maps[0], L = tokens.length;
    const word = tokens.map(token => /\p{L}/u.test(token) && !/^(\[.*\]|<.*>)$/.test(token));
    let best = [-1, 0, 0];
    heads.forEach((row, y) => row.forEach((text, n) => {
      const between = i => Math.abs(i % L - Math.floor(i / L)) > 1 && word[i % L] && word[Math.floor(i / L)];
      const share = decoded(text).reduce((sum, w, i) => sum + (between(i) ? w * w : 0), 0);
      if (share > best[0]) best = [share, y, n];
    }));
    return best.slice(1);
  }

  function weights() {
    const heads = maps[which.value].heads[layer.value].map(decoded);
    if (head.value < heads.length) return heads[head.value];
    return heads[0].map((_, i) => heads.reduce((sum, one) => sum + one[i], 0) / heads.length);
  }

  function draw() {
    const {name, tokens} = maps[which.value], values = weights();
    const top = element("tr", null, {});
    top.append(element("td", null, {}), ...tokens.map(token => heading("col", token)));
    const body = element("tbody", null, {});
    tokens.forEach((token, i) => {
      const row = element("tr", null, {});
      row.append(heading("row", token), ...tokens.map((other, j) => {
        const weight = values[i * tokens.length + j], text = (100 * weight).toFixed(1);
        // The square root keeps small shares apart.
        const shade = "p" + Math.round(5 * Math.sqrt(weight)), label = `${token} attends to ${other}: ${text} per cent`;
        return element("td", text, {class: shade, tabindex: i + j ? -1 : 0, "aria-label": label});
      }));
      body.append(row);
    });
    const first = element("thead", null, {});
    first.append(top);
    table.replaceChildren(first, body);
    const number = head.selectedOptions[0].textContent;
    document.getElementById("shown").textContent = `${name}, layer ${Number(layer.value) + 1}, head ${number}`;
    const current = Number(layer.value) * maps[which.value].heads[0].length + Number(head.value);
    const chosen = head.value < maps[which.value].heads[0].length ? current : -1;
    Array.from(gallery.children, (tile, i) => {
      tile.setAttribute("aria-pressed", i === chosen);
      tile.tabIndex = i === Math.max(chosen, 0) ? 0 : -1;
    });
  }

  options(which, maps.map(map => map.name));
  which.addEventListener("change", () => { choose(); link(); });
  layer.addEventListener("change", () => { draw(); link(); });
  head.addEventListener("change", () => { draw(); link(); });
  gallery.addEventListener("keydown", event => {
    const across = maps[which.value].heads[0].length, from = Array.from(gallery.children).indexOf(event.target);
    const step = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across}[event.key];
    const tile = step && gallery.children[from + step];
    if (!step || event.altKey) return;
    event.preventDefault();
    if (tile) { tile.click(); tile.focus(); }
  });
  window.addEventListener("hashchange", linked);
  choose();
  if (!linked()) { [layer.value, head.value] = liveliest(); draw(); }
}

// The keys n and p go to the next step of a page that has steps, and back.
function stride() {
  const steps = Array.from(document.querySelectorAll(".step"));
  steps.forEach(step => { step.tabIndex = -1; });
  document.addEventListener("keydown", event => {
    const way = {n: 1, p: -1}[event.key];
    if (!way || event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
    const passed = steps.filter(step => step.getBoundingClientRect().top < 80).length - 1;
    const next = steps[Math.min(Math.max(passed + way, 0), steps.length - 1)];
    next.focus({preventScroll: true});
    next.scrollIntoView();
  });
}

if (document.getElementById("data")) attention();
stride();
document.querySelectorAll("table[role=grid]").forEach(walk);

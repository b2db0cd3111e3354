"use strict";
// A table is one stop of the Tab key; arrow keys move inside it. The label of the current cell is also shown above the table.
function walk(table) {
  const readout = table.closest("section").querySelector(".readout");
  const show = event => {
    const cell = event.target.closest("td[tabindex]");
    if (cell) readout.textContent = cell.getAttribute("aria-label");
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
  const table = document.getElementById("attention"), steps = 200;
  const options = (select, names) => select.replaceChildren(...names.map((name, i) => element("option", name, {value: i})));
  const numbers = count => Array.from({length: count}, (_, i) => String(i + 1));

  function choose() {
    const heads = maps[which.value].heads;
    const before = [layer.value, head.value];
    options(layer, numbers(heads.length));
    options(head, [...numbers(heads[0].length), "mean of all"]);
    if (before[0] && before[0] < heads.length) layer.value = before[0];
    if (before[1] && before[1] <= heads[0].length) head.value = before[1];
    draw();
  }

  function weights() {
    const heads = maps[which.value].heads[layer.value].map(text => Array.from(atob(text), c => c.charCodeAt(0) / steps));
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
  }

  options(which, maps.map(map => map.name));
  which.addEventListener("change", choose);
  layer.addEventListener("change", draw);
  head.addEventListener("change", draw);
  choose();
}

if (document.getElementById("data")) attention();
document.querySelectorAll("table[role=grid]").forEach(walk);

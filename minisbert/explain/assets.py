"""The style and the script of the page that `minisbert explain --html` writes (explain/page.py)."""

# Backgrounds from 0 to the largest number, above and below 0; each with the text colour that is legible on it
# (a contrast of 4.5 at least: WCAG 2.2, criterion 1.4.3), in the light and in the dark page.
BLUE = [
    ("#f7f7f7", "#000"),
    ("#d6e6f4", "#000"),
    ("#abcfe6", "#000"),
    ("#6aaed6", "#000"),
    ("#2a72b2", "#fff"),
    ("#084488", "#fff"),
]
ORANGE = [
    ("#f7f7f7", "#000"),
    ("#fee3c8", "#000"),
    ("#fdc38d", "#000"),
    ("#fc994a", "#000"),
    ("#b45309", "#fff"),
    ("#7a2d04", "#fff"),
]

_SHADES = "\n".join(
    f"td.{side}{step} {{ background: {ground}; color: {ink} }}"
    for side, colours in (("p", BLUE), ("n", ORANGE))
    for step, (ground, ink) in enumerate(colours)
)
STYLE = f"""
:root {{ color-scheme: light dark; --ink: #111; --paper: #fff; --line: #767676 }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #eee; --paper: #161616; --line: #8c8c8c }} }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 1.5rem; color: var(--ink); background: var(--paper) }}
p, dl, ol {{ max-width: 52rem; overflow-wrap: anywhere }}
dt {{ font-weight: bold }} dd {{ margin: 0 0 .5rem 0; white-space: pre-wrap }}
.scroll {{ overflow: auto; max-height: 85vh }}
table {{ border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }}
th {{ font-weight: 600; color: var(--ink); background: var(--paper); white-space: pre }}
th[scope=row] {{ text-align: right; padding: 0 .5em; position: sticky; left: 0 }}
th[scope=col] {{ writing-mode: vertical-rl; transform: rotate(180deg); padding: .5em 0; text-align: left;
  position: sticky; top: 0 }}
th bdi {{ display: block; max-inline-size: 9em; overflow: hidden; text-overflow: ellipsis }}
td[tabindex] {{ scroll-margin: 11em 1em 1em 11em; border: 1px solid var(--line); padding: .25em .35em; text-align: right }}
td.sum {{ background: var(--paper); color: var(--ink); font-weight: 600 }}
{_SHADES}
td:focus {{ outline: 3px solid currentColor; outline-offset: -4px }}
select {{ font: inherit; padding: .2em }} select:focus {{ outline: 3px solid var(--ink); outline-offset: 1px }}
.readout {{ min-height: 1.5em; font-weight: 600; margin: .25rem 0 }}
"""

SCRIPT = """
"use strict";
// A table is one stop of the Tab key; arrow keys walk in it. What a cell says stands above the table, too.
function walk(table) {
  const readout = table.closest("section").querySelector(".readout");
  const tell = event => {
    const cell = event.target.closest("td[tabindex]");
    if (cell) readout.textContent = cell.getAttribute("aria-label");
  };
  table.addEventListener("focusin", tell);
  table.addEventListener("mouseover", tell);
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
        // By the square root: small shares can be told apart.
        const look = "p" + Math.round(5 * Math.sqrt(weight)), label = `${token} looks at ${other}: ${text} per cent`;
        return element("td", text, {class: look, tabindex: i + j ? -1 : 0, "aria-label": label});
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
"""

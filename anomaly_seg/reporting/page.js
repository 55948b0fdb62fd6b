"use strict";
// The page's behaviour. An image is called defective if score > threshold; everything shown is counted anew from that.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const KINDS = ["cross_fold", "best_f", "paper"];
const STEPS = 1000;
const FIRST = 12; // pictures shown before the reader asks for all
const PLOT = { displayModeBar: false, responsive: true };
let method, fold, rows, threshold, low, high;

// ---- scores and the axis they are drawn on
const EDGE = 1e-6;
const toAxis = ({ kind, scale }, s) => {
  if (kind === "asinh") return Math.asinh(s / scale);
  const p = Math.min(Math.max(s, EDGE), 1 - EDGE);
  return Math.log(p / (1 - p));
};
const fromAxis = ({ kind, scale }, x) => (kind === "asinh" ? Math.sinh(x) * scale : 1 / (1 + Math.exp(-x)));
const format = (x) => Number(x.toPrecision(5)).toString();
const share = (part, whole) => (whole ? (part / whole).toFixed(3) : "n/a");
const outcomeOf = (i, at) =>
  method.score[i] > at ? (method.label[i] ? "hit" : "false alarm") : method.label[i] ? "miss" : "pass";
const badgeClass = { hit: "hit", "false alarm": "alarm", miss: "miss", pass: "pass" };

function element(tag, text, className) {
  const e = document.createElement(tag);
  if (text !== undefined) e.textContent = text;
  if (className) e.className = className;
  return e;
}

// ---- choosing a method
const choices = ["setting", "method", "dilation", "seed"];

function fill(select, values, labels, wanted) {
  select.replaceChildren(...values.map((v, i) => {
    const option = element("option", labels[i]);
    option.value = v;
    return option;
  }));
  if (values.map(String).includes(wanted)) select.value = wanted;
}

// Each choice offers what the choices before it leave, and keeps its value where it can.
function choose() {
  let left = data.methods;
  for (const name of choices) {
    const label = $("choose-" + name), select = label.querySelector("select");
    const values = [...new Set(left.map((g) => g[name]))];
    fill(select, values, values, select.value);
    label.hidden = values.length < 2 && (name === "setting" || name === "seed");
    left = left.filter((g) => String(g[name]) === select.value);
  }
  method = left[0];
  const select = $("choose-fold").querySelector("select");
  fill(select, ["all", ...method.folds], ["all, pooled", ...method.folds], select.value);
  fold = select.value;
  rows = method.image.map((_, i) => i).filter((i) => fold === "all" || String(method.fold[i]) === fold);
  const kinds = KINDS.filter((kind) => kind in method.thresholds);
  fill($("reference"), kinds, kinds.map((k) => data.labels[k]), $("reference").value);
  $("jumps").replaceChildren(...kinds.map(jumpButton).filter(Boolean));
  drawScores();
  buildGallery();
  buildImages();
  setThreshold(startThreshold(kinds));
  arrange();
}

// A kind whose value differs from fold to fold is no single threshold for the pooled folds.
function single(kind) {
  const values = method.thresholds[kind];
  const here = fold === "all" ? [...new Set(Object.values(values))] : [values[fold]];
  return here.length === 1 ? here[0] : undefined;
}

function startThreshold(kinds) {
  const values = kinds.map(single).filter((v) => v !== undefined);
  return values.length ? values[0] : fromAxis(method.axis, (low + high) / 2);
}

function jumpButton(kind) {
  const value = single(kind);
  if (value === undefined) return null;
  const button = element("button", "to " + data.labels[kind]);
  button.type = "button";
  button.dataset.kind = kind;
  button.addEventListener("click", () => { setThreshold(value); arrange(); });
  return button;
}

// ---- the chart
let line;

// The range of the axis, and the figure of method g narrowed to a fold (or "all").
function scoreChart(g, chosen) {
  const positions = g.score.filter((_, i) => chosen === "all" || String(g.fold[i]) === chosen).map((s) => toAxis(g.axis, s));
  const room = (Math.max(...positions) - Math.min(...positions)) * 0.04 || 1;
  const range = [Math.min(...positions) - room, Math.max(...positions) + room];
  const traces = g.figure.data.map((t) => ({ ...t, visible: chosen === "all" || String(t.meta.fold) === chosen }));
  const layout = structuredClone(g.figure.layout);
  layout.xaxis.range = range;
  layout.shapes = (layout.shapes || []).filter((s) => chosen === "all" || s.name.split(":")[1] === chosen);
  for (const a of layout.annotations || []) {
    const kind = KINDS.find((k) => data.labels[k] === a.text);
    if (chosen !== "all") a.x = toAxis(g.axis, g.thresholds[kind][chosen]);
    a.visible = a.x >= range[0] && a.x <= range[1];
    // Labels stay inside the chart: those of lines in its right half stand to their left.
    if (a.x > (range[0] + range[1]) / 2) Object.assign(a, { xanchor: "right", xshift: -4 });
  }
  return { traces, layout, range };
}

function drawScores() {
  const { traces, layout, range } = scoreChart(method, fold);
  [low, high] = range;
  line = layout.shapes.length;
  layout.shapes.push({ type: "line", yref: "paper", y0: -0.04, y1: 1, x0: low, x1: low, line: { color: "#1f2933", width: 3 } });
  Plotly.react("scores", traces, layout, PLOT);
}

// ---- the threshold
function setThreshold(value, source) {
  threshold = value;
  const x = toAxis(method.axis, value);
  if (source !== "slider") $("slider").value = Math.round(((x - low) / (high - low)) * STEPS);
  if (source !== "number") $("threshold").value = format(value);
  Plotly.relayout("scores", { [`shapes[${line}].x0`]: x, [`shapes[${line}].x1`]: x });
  count();
  compare();
  for (const figure of $("gallery").children) badge(figure);
}

function count() {
  const n = { hit: 0, "false alarm": 0, miss: 0, pass: 0 };
  for (const i of rows) n[outcomeOf(i, threshold)] += 1;
  const [tp, fp, fn, tn] = [n.hit, n["false alarm"], n.miss, n.pass];
  const cards = [
    ["F1", share(2 * tp, 2 * tp + fp + fn)], ["P", share(tp, tp + fp)], ["R", share(tp, tp + fn)],
    ["FP", fp, fp > 0], ["FN", fn, fn > 0], ["TP", tp], ["TN", tn],
  ];
  $("cards").replaceChildren(...cards.map(([name, value, wrong]) => {
    const card = element("div", undefined, wrong ? "wrong" : "");
    card.dataset.measure = name;
    card.append(element("span", name), element("b", value));
    return card;
  }));
}

function compare() {
  const values = method.thresholds[$("reference").value];
  if (!values) return;
  const flips = rows
    .map((i) => ({ i, was: outcomeOf(i, values[method.fold[i]]), is: outcomeOf(i, threshold) }))
    .filter((f) => f.was !== f.is)
    .sort((a, b) => method.score[b.i] - method.score[a.i]);
  $("flip-count").textContent = flips.length === 1 ? "1 image flips" : `${flips.length} images flip`;
  $("flips").replaceChildren(...flips.map(({ i, was, is }) =>
    element("li", `${method.image[i]} (fold ${method.fold[i]}, score ${format(method.score[i])}): ${was} → ${is}`)));
}

// One image on: the threshold moves between the next two distinct scores, so exactly the images of one score flip.
function step(up) {
  const scores = [...new Set(rows.map((i) => method.score[i]))].sort((a, b) => a - b);
  const below = scores.filter((s) => s <= threshold).length; // scores[0..below-1] are not called defective
  const target = below + (up ? 1 : -1);
  if (target < 0 || target > scores.length) return;
  const first = target > 0 ? scores[target - 1] : scores[0] - 1;
  const second = target < scores.length ? scores[target] : scores[target - 1] + 1;
  const middle = first / 2 + second / 2;
  setThreshold(middle < second ? middle : first);
  arrange();
}

// ---- pictures and the table of images
function buildGallery() {
  $("all-pictures").dataset.pressed = "";
  const shown = Object.keys(method.pictures).map(Number).filter((i) => rows.includes(i));
  $("gallery").replaceChildren(...shown.map((i) => {
    const figure = element("figure"), image = element("img"), caption = element("figcaption");
    figure.dataset.row = i;
    image.src = method.pictures[i];
    image.alt = `${method.image[i]}: ${method.panels}`;
    caption.append(element("span", undefined, "badge"), ` ${method.image[i]}, fold ${method.fold[i]}, score ${format(method.score[i])}`);
    figure.append(image, caption);
    return figure;
  }));
  const more = method.left_out ? ` ${method.left_out} more are in the run folders.` : "";
  $("picture-note").textContent = shown.length
    ? `Each strip: ${method.panels}. What is wrong at the threshold above comes first.${more}`
    : `No pictures of this choice in this page.${more}`;
}

function badge(figure) {
  const is = outcomeOf(Number(figure.dataset.row), threshold);
  const label = figure.querySelector(".badge");
  label.textContent = is;
  label.className = "badge " + badgeClass[is];
}

// Sorting waits for the end of a drag: pictures that jump under the finger help nobody.
function arrange() {
  const order = ["miss", "false alarm", "hit", "pass"];
  const rank = (f) => order.indexOf(outcomeOf(Number(f.dataset.row), threshold));
  const sorted = [...$("gallery").children].sort((a, b) => rank(a) - rank(b));
  const all = $("all-pictures");
  all.hidden = all.dataset.pressed === "yes" || sorted.length <= FIRST;
  all.textContent = `Show all ${sorted.length}`;
  sorted.forEach((f, i) => { f.hidden = !all.hidden && i >= FIRST; });
  $("gallery").append(...sorted);
}

function buildImages() {
  if (!$("per-image").open) { $("images").replaceChildren(); return; }
  const kinds = KINDS.filter((kind) => kind in method.thresholds);
  const head = element("tr");
  head.append(...["image", "fold", "label", "score", ...kinds.map((k) => data.labels[k])].map((t) => element("th", t)));
  const body = [...rows].sort((a, b) => method.score[b] - method.score[a]).map((i) => {
    const tr = element("tr");
    const cells = [method.image[i], method.fold[i], method.label[i] ? "defective" : "good", format(method.score[i])];
    tr.append(...cells.map((t) => element("td", t)));
    for (const kind of kinds) {
      const is = outcomeOf(i, method.thresholds[kind][method.fold[i]]), cell = element("td");
      cell.append(element("span", is, "badge " + badgeClass[is]));
      tr.append(cell);
    }
    return tr;
  });
  const thead = element("thead"), tbody = element("tbody");
  thead.append(head);
  tbody.append(...body);
  $("images").replaceChildren(thead, tbody);
}

// ---- figures against dilation
function drawDilation(box) {
  const figures = data.settings.find((s) => s.name === box.dataset.setting).figures;
  const kinds = KINDS.filter((kind) => kind in figures);
  if (!kinds.length) return;
  box.hidden = false;
  const select = box.querySelector("select"), panels = box.querySelector(".panels");
  fill(select, kinds, kinds.map((k) => data.labels[k]), select.dataset.started ? select.value : kinds[0]);
  select.dataset.started = "yes";
  panels.replaceChildren();
  for (const figure of figures[select.value]) {
    const div = panels.appendChild(element("div"));
    Plotly.newPlot(div, figure.data, figure.layout, PLOT);
  }
}

// ---- scores of every method at one D
function drawMethods(box) {
  const here = data.methods.filter((g) => g.setting === box.dataset.setting);
  const dilations = [...new Set(here.map((g) => g.dilation))], seed = here[0].seed;
  const select = box.querySelector("select"), panels = box.querySelector(".panels");
  fill(select, dilations, dilations, select.value);
  panels.replaceChildren();
  for (const g of here.filter((g) => String(g.dilation) === select.value && g.seed === seed)) {
    const { traces, layout } = scoreChart(g, "all"), div = panels.appendChild(element("div"));
    div.before(element("h4", g.method));
    Plotly.newPlot(div, traces, layout, PLOT);
  }
}

for (const name of [...choices, "fold"]) $("choose-" + name).addEventListener("change", choose);
$("slider").addEventListener("input", (e) => setThreshold(fromAxis(method.axis, low + (e.target.value / STEPS) * (high - low)), "slider"));
$("slider").addEventListener("change", arrange);
$("threshold").addEventListener("input", (e) => { if (e.target.value !== "") setThreshold(Number(e.target.value), "number"); });
$("threshold").addEventListener("change", arrange);
$("fewer").addEventListener("click", () => step(false));
$("more").addEventListener("click", () => step(true));
$("reference").addEventListener("change", compare);
$("per-image").addEventListener("toggle", buildImages);
for (const box of document.querySelectorAll(".dilation")) {
  box.querySelector("select").addEventListener("change", () => drawDilation(box));
  drawDilation(box);
}
for (const box of document.querySelectorAll(".methods")) {
  box.querySelector("select").addEventListener("change", () => drawMethods(box));
  box.addEventListener("toggle", () => drawMethods(box), { once: true }); // drawn when first opened: it has no size before
}
$("all-pictures").addEventListener("click", () => { $("all-pictures").dataset.pressed = "yes"; arrange(); });
choose();

"use strict";
// The match browser. Names come from files: they reach the page through textContent only.
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const CHUNK = 48;
const SIGNS = { correct: "✓", wrong: "✕", distractor: "!", missed: "○" };
const columns = data.columns;
const rows = data.rows.map((values, index) => {
  const row = { index, verdict: data.verdicts[values[columns.length]] };
  columns.forEach((name, i) => { row[name] = values[i]; });
  row.edits = data.edits[row.query_id] || "";
  row.text = (row.query_id + "\n" + row.reference_id).toLowerCase();
  return row;
});
const judged = data.positives !== null;
const state = { verdict: "", edit: "", decision: "", sort: "falling", search: "", threshold: -Infinity };
let visible = [];
let rendered = 0;
let opened = -1;

const format = (score) =>
  score === null ? "–" : Number.isInteger(score) ? String(score) : score.toFixed(Math.abs(score) < 10 ? 4 : 2);
const rate = (share) => share.toFixed(3);
const accepted = (row) => row.score !== null && row.score >= state.threshold;
// What a card is called: without a ground truth nobody knows more than the score.
const label = (row) => judged ? `${SIGNS[row.verdict]} ${row.verdict}` : accepted(row) ? "accepted" : "rejected";
const byText = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
const copy = (id) => $(id).content.firstElementChild.cloneNode(true);

// Rows come sorted by falling score, missed pairs last; these orders keep that among equals.
const ORDERS = {
  falling: null,
  rising: (a, b) => (a.score === null) - (b.score === null) || a.score - b.score,
  query: (a, b) => byText(a.query_id, b.query_id),
  verdict: (a, b) => data.verdicts.indexOf(a.verdict) - data.verdicts.indexOf(b.verdict),
};

function refresh() {
  visible = rows.filter((row) =>
    (!state.verdict || row.verdict === state.verdict) &&
    (!state.edit || row.edits.split("+").includes(state.edit)) &&
    (!state.decision || (state.decision === "accepted") === accepted(row)) &&
    (!state.search || row.text.includes(state.search)));
  if (ORDERS[state.sort]) visible.sort(ORDERS[state.sort]); // Array sort is stable
  rendered = 0;
  $("cards").replaceChildren();
  renderMore();
  const left = data.total - rows.length;
  $("count").textContent = `${visible.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} pairs` +
    (left ? ` (${left.toLocaleString("en")} with lower scores are not listed)` : "");
  if (!visible.length) {
    const empty = document.createElement("p");
    empty.className = "empty";
    empty.textContent = "No pair matches these filters.";
    $("cards").append(empty);
  }
}

function renderMore() {
  const next = visible.slice(rendered, rendered + CHUNK);
  const list = document.createDocumentFragment();
  next.forEach((row, i) => list.append(makeCard(row, rendered + i)));
  $("cards").append(list);
  rendered += next.length;
  $("more").hidden = rendered >= visible.length;
  $("more").textContent = `Show more (${(visible.length - rendered).toLocaleString("en")} left)`;
  nearEnd.unobserve($("more")); // observed anew, it reports again if it is still in view
  nearEnd.observe($("more"));
}
const nearEnd = new IntersectionObserver(
  (seen) => { if (seen.at(-1).isIntersecting && rendered < visible.length) renderMore(); }, { rootMargin: "400px" });

function makeCard(row, position) {
  const card = copy("card");
  card.classList.add(row.verdict);
  card.classList.toggle("rejected", row.score !== null && !accepted(row));
  card.dataset.index = row.index;
  card.querySelector(".pair").append(makePair(row, false));
  card.querySelector(".badge").textContent = label(row);
  card.querySelector(".score").textContent = format(row.score);
  for (const side of ["query", "reference"]) {
    card.querySelector(`.${side} bdi`).textContent = row[side + "_id"];
    card.querySelector("." + side).title = row[side + "_id"];
  }
  card.querySelector(".edits").textContent = row.edits.split("+").join(" + ");
  card.addEventListener("click", () => show(position));
  return card;
}

const frameOf = (row, side) => row[side + "_id"] + (row[side + "_frame"] ? "#frame=" + row[side + "_frame"] : "");
// Both pictures in square cells of 100 units; drawings are given in shares of width and height.
function makePair(row, withLines) {
  const svg = copy("pair");
  svg.setAttribute("aria-label", `query ${row.query_id} beside reference ${row.reference_id}`);
  const drawing = data.drawings[row.index] || {};
  const boxes = ["q:" + frameOf(row, "query"), "r:" + frameOf(row, "reference")].map((key, i) =>
    placePicture(svg.querySelectorAll(".side")[i], row.index in data.drawings ? data.pictures[key] : null, 104 * i));
  const at = (box, x, y) => [box.x + x * box.w, box.y + y * box.h];
  [drawing.outline, drawing.window].forEach((corners, i) => {
    if (!corners || !boxes[i]) return;
    const polygon = shape(".outline");
    polygon.setAttribute("points", corners.map(([x, y]) => at(boxes[i], x, y).join()).join(" "));
    svg.querySelectorAll(".side")[i].append(polygon);
  });
  const [query, reference] = boxes;
  for (const point of (query && reference && drawing.points) || []) {
    const [x1, y1] = at(query, point[0], point[1]);
    const [x2, y2] = at(reference, point[2], point[3]);
    if (withLines) svg.querySelector(".lines").append(place(shape("line"), { x1, y1, x2, y2 }));
    for (const [cx, cy] of [[x1, y1], [x2, y2]]) svg.querySelector(".lines").append(place(shape("circle"), { cx, cy }));
  }
  return svg;
}

function placePicture(side, picture, left) {
  if (!picture || picture.error) {
    side.querySelector("text").textContent = picture ? "unreadable" : "not pictured";
    return null;
  }
  const scale = 100 / Math.max(picture.w, picture.h);
  const box = { w: picture.w * scale, h: picture.h * scale };
  box.x = left + (100 - box.w) / 2;
  box.y = (100 - box.h) / 2;
  const image = side.querySelector("image");
  place(image, { x: box.x, y: box.y, width: box.w, height: box.h, href: picture.src });
  return box;
}

const shape = (selector) => $("shapes").content.querySelector(selector).cloneNode(false);
function place(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// Enlarged view
function show(position) {
  opened = position;
  const row = visible[position];
  const drawing = data.drawings[row.index];
  $("view").className = row.verdict;
  $("view-title").textContent = `${label(row)}: ${row.query_id} → ${row.reference_id}`;
  $("view-pair").replaceChildren(makePair(row, true));
  $("view-note").textContent = !drawing
    ? "This pair has no pictures in the report: raise max_thumbnails to embed more."
    : drawing.note || (drawing.points || drawing.outline
      ? "Green: keypoints that agree on one geometry. Amber: frame of the other picture, as recovered." : "");
  const details = { score: row.score === null ? "not in the list" : String(row.score) };
  const originals = data.truth[row.query_id] || ["none: a distractor query"];
  if (judged) details[originals.length > 1 ? "true references" : "true reference"] = originals.join(", ");
  if (row.edits) details.edits = row.edits.split("+").join(" + ");
  for (const name of columns.slice(3)) if (row[name] !== null) details[name] = String(row[name]);
  $("view-details").replaceChildren(...Object.entries(details).map(([name, value]) => {
    const group = document.createElement("div");
    for (const [tag, text] of [["dt", name], ["dd", value]]) {
      const part = document.createElement(tag);
      part.textContent = text;
      group.append(part);
    }
    return group;
  }));
  $("previous").disabled = position === 0;
  $("next").disabled = position === visible.length - 1;
  if (!$("view").open) $("view").showModal();
}
function step(by) {
  const position = opened + by;
  if (position < 0 || position >= visible.length) return;
  if (position >= rendered) renderMore();
  show(position);
}

// Threshold: the slider steps through the scores that occur, so every number is exact.
function moveThreshold() {
  const curve = data.curve;
  const i = curve.score.length - 1 - Number($("threshold").value); // right = stricter
  state.threshold = curve.score[i];
  $("threshold-value").textContent = format(state.threshold);
  $("threshold").setAttribute("aria-valuetext", format(state.threshold));
  $("live-accepted").textContent = curve.rows[i].toLocaleString("en");
  $("live-correct").textContent = curve.hits[i].toLocaleString("en");
  $("live-precision").textContent = rate(curve.hits[i] / curve.rows[i]);
  $("live-recall").textContent = judged ? rate(curve.hits[i] / data.positives) : "";
  if (state.decision) return refresh();
  for (const card of $("cards").querySelectorAll(".card")) {
    const row = rows[card.dataset.index];
    card.classList.toggle("rejected", row.score !== null && !accepted(row));
    card.querySelector(".badge").textContent = label(row);
  }
}

function exportRows() {
  const names = [...columns, ...(judged ? ["verdict"] : []), "edits"];
  const cell = (value) => {
    // `./` as in names.to_cell: a spreadsheet would run a text that begins like a formula.
    const formula = typeof value === "string" && /^[=+@-]/.test(value);
    const text = value === null ? "" : (formula ? "./" : "") + value;
    return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  };
  const lines = [names, ...visible.map((row) => names.map((name) => row[name]))];
  const url = URL.createObjectURL(new Blob([lines.map((line) => line.map(cell).join(",") + "\n").join("")], { type: "text/csv" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = "matches.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

function makeChips() {
  const counts = { "": rows.length };
  for (const row of rows) counts[row.verdict] = (counts[row.verdict] || 0) + 1;
  for (const verdict of ["", ...data.verdicts.filter((name) => counts[name])]) {
    const chip = document.createElement("button");
    const of = document.createElement("span");
    chip.type = "button";
    chip.textContent = verdict ? `${SIGNS[verdict]} ${verdict}` : "all";
    chip.dataset.verdict = verdict;
    chip.setAttribute("aria-pressed", verdict === "");
    of.className = "of";
    of.textContent = counts[verdict].toLocaleString("en");
    chip.append(of);
    chip.addEventListener("click", () => {
      state.verdict = verdict;
      for (const other of $("chips").children) other.setAttribute("aria-pressed", other === chip);
      refresh();
    });
    $("chips").append(chip);
  }
}

function setUp() {
  if (judged) makeChips();
  const edits = [...new Set(Object.values(data.edits).flatMap((text) => text.split("+")))].filter(Boolean);
  for (const edit of edits.sort()) $("edit").add(new Option(edit, edit));
  $("edit").parentElement.hidden = !edits.length;
  for (const name of ["edit", "decision", "sort"]) {
    $(name).addEventListener("change", () => { state[name] = $(name).value; refresh(); });
  }
  $("search").addEventListener("input", () => { state.search = $("search").value.trim().toLowerCase(); refresh(); });
  for (const element of document.querySelectorAll(".judged")) element.hidden = !judged;
  const scores = data.curve.score;
  $("threshold-row").hidden = !scores.length;
  if (scores.length) {
    const start = data.threshold === null ? scores.length - 1 : scores.findLastIndex((score) => score >= data.threshold);
    $("threshold").max = scores.length - 1;
    $("threshold").value = scores.length - 1 - Math.max(start, 0);
    $("threshold").addEventListener("input", moveThreshold);
    moveThreshold();
  }
  $("export").addEventListener("click", exportRows);
  $("more").addEventListener("click", renderMore);
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("close").addEventListener("click", () => $("view").close());
  $("view").addEventListener("click", (event) => { if (event.target === $("view")) $("view").close(); });
  $("view").addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  $("view").addEventListener("close", () => $("cards").children[opened]?.focus());
  $("panel").hidden = false;
  refresh();
}

setUp();

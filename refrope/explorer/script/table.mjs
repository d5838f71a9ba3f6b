// The numbers of all pairs as a table, so that everybody reads what the drawings show.

import { isPreCritical } from "./model.mjs";
import { percent, said } from "./words.mjs";

const COLUMNS = [
  ["pair", (_, j) => String(j)],
  ["radians per token", ({ encoding }, j) => String(Number(encoding.invFreq[j].toPrecision(9)))],
  ["stretch", ({ encoding }, j) => encoding.stretch[j].toFixed(4)],
  [
    "wavelength",
    ({ encoding }, j) => (encoding.periods ? said(encoding.periods[j]) : encoding.wavelengths[j].toFixed(3)),
  ],
  ["critical", (model, j) => (isPreCritical(model, j) ? "pre" : "post")],
  ["coverage in training", ({ trainCoverage }, j) => percent(trainCoverage[j])],
  ["coverage at test", ({ testCoverage }, j) => percent(testCoverage[j])],
  ["feature gap", ({ gap }, j) => (gap[j] === 0 ? "0" : gap[j].toFixed(6))],
];

/** Fill `table` with a row a pair. */
export function fillTable(table, model) {
  const head = row(COLUMNS.map(([name]) => cell("th", name, "col")));
  const rows = Array.from({ length: model.encoding.pairs }, (_, j) =>
    row(COLUMNS.map(([, text], i) => (i === 0 ? cell("th", text(model, j), "row") : cell("td", text(model, j))))),
  );
  table.tHead.replaceChildren(head);
  table.tBodies[0].replaceChildren(...rows);
}

function row(cells) {
  const element = document.createElement("tr");
  element.append(...cells);
  return element;
}

function cell(name, text, scope) {
  const element = document.createElement(name);
  element.textContent = text;
  if (scope) element.scope = scope;
  return element;
}

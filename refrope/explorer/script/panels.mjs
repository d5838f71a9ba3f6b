// The drawings by pair and by distance. Each takes an <svg> of the page and a model, and draws it anew.

import { isPreCritical } from "./model.mjs";
import { axes, limit, linearScale, logScale, mark, niceStep, path, svg } from "./svg.mjs";
import { spacingAt } from "./words.mjs";

const HEIGHT = 250;
const MARGIN = { left: 46, right: 20, top: 24, bottom: 40 };
const SMALLEST_GAP = 1e-6; // that the axis of the feature gap may tell from 0

/** Wavelengths of the pairs, those of plain RoPE, L and L'. */
export function drawWavelengths(target, model) {
  const { encoding, plain, state } = model;
  const box = boxOf(target);
  const x = pairScale(box, encoding.pairs);
  const highest = Math.max(encoding.wavelengths.at(-1), plain.wavelengths.at(-1), state.test_length);
  const y = logScale([4, 1.5 * highest], [box.bottom, box.top], 24);
  const points = (numbers) => Array.from(numbers, (value, j) => [x(j), y(value)]);
  redraw(target, box, [
    axes(box, x, y, "pair", "wavelength in tokens"),
    selected(box, x, state.pair),
    path(points(plain.wavelengths), "plain"),
    limit(box, { y: y(state.train_length) }, `L = ${state.train_length.toLocaleString("en")}`, "train"),
    limit(box, { y: y(state.test_length) }, `L′ = ${state.test_length.toLocaleString("en")}`, "test"),
    criticalLine(box, x, model),
    ...points(encoding.wavelengths).map((point, j) => pairMark(model, j, point)),
  ]);
}

/** The share of its circle that each pair sweeps in training, and in the test. */
export function drawCoverage(target, model) {
  const { encoding, state, trainCoverage, testCoverage } = model;
  const box = boxOf(target);
  const x = pairScale(box, encoding.pairs);
  const y = linearScale([0, 100], [box.bottom, box.top], 25);
  const narrow = x(1) - x(0) < 4;
  const bars = (shares, className, width) =>
    Array.from(shares, (share, j) => {
      const half = (width * (x(1) - x(0))) / 2;
      const top = y(100 * share);
      return svg("rect", { class: className, x: x(j) - half, width: 2 * half, y: top, height: box.bottom - top });
    });
  redraw(target, box, [
    axes(box, x, y, "pair", "% of the circle"),
    selected(box, x, state.pair),
    ...bars(testCoverage, "test-bar", narrow ? 1 : 0.84),
    ...bars(trainCoverage, "train-bar", narrow ? 1 : 0.5),
    criticalLine(box, x, model),
  ]);
}

/** The feature gap of each pair; where positions are rounded, that of exact ones behind it. */
export function drawGap(target, model) {
  const { encoding, state, gap, exactGap } = model;
  const box = boxOf(target);
  const zero = box.bottom - 12;
  const x = pairScale(box, encoding.pairs);
  const smallest = Math.min(0.01, ...[...gap, ...exactGap].filter((value) => value >= SMALLEST_GAP));
  const scale = logScale([10 ** Math.floor(Math.log10(smallest)), 3], [zero - 16, box.top], 24);
  const y = (value) => (value < SMALLEST_GAP ? zero : scale(value));
  y.ticks = [[0, "0"], ...scale.ticks];
  const rounds = gap !== exactGap;
  redraw(target, box, [
    axes(box, x, y, "pair", "feature gap (chord, 0 to 2)"),
    selected(box, x, state.pair),
    criticalLine(box, x, model),
    ...(rounds ? Array.from(exactGap, (value, j) => mark("ring", [x(j), y(value)], sizeFor(model) + 1, "plain")) : []),
    ...Array.from(gap, (value, j) => pairMark(model, j, [x(j), y(value)])),
  ]);
}

/** The logit of equal vectors against their distance; where positions are rounded, both ways. */
export function drawLogits(target, model) {
  const { state, distances, logits, roundedLogits } = model;
  const box = boxOf(target);
  const x = logScale([1, Math.max(2, state.test_length - 1)], [box.left, box.right], 48);
  const lowest = Math.min(-0.1, ...logits, ...(roundedLogits ?? []));
  const y = linearScale([lowest, 1.05], [box.bottom, box.top], niceStep(1.05 - lowest, 6));
  const line = (values, className) =>
    path(
      values.map((value, i) => [x(distances[i]), y(value)]),
      className,
    );
  redraw(target, box, [
    axes(box, x, y, "distance in tokens", "logit, 1 at distance 0"),
    svg("line", { class: "zero", x1: box.left, x2: box.right, y1: y(0), y2: y(0) }),
    limit(box, { x: x(state.train_length) }, "L", "train"),
    ...(roundedLogits ? [line(logits, "plain"), line(roundedLogits, "post-line")] : [line(logits, "pre-line")]),
  ]);
}

/** How far apart neighbouring positions are in bfloat16. */
export function drawSpacing(target, { state }) {
  const box = boxOf(target);
  const x = logScale([1, Math.max(2, state.test_length)], [box.left, box.right], 48);
  const y = logScale([0.8, 1500], [box.bottom, box.top], 24);
  const points = [[x(1), y(1)]];
  for (let position = 256; position < state.test_length; position *= 2) {
    points.push([x(position), points.at(-1)[1]], [x(position), y(spacingAt(position))]);
  }
  points.push([x(state.test_length), points.at(-1)[1]]);
  redraw(target, box, [
    axes(box, x, y, "position", "tokens that share a position"),
    limit(box, { x: x(state.train_length) }, "L", "train"),
    path(points, "post-line"),
  ]);
}

/** The pair at a place of a drawing by pair. */
export function pairAt(target, model, offset) {
  const box = boxOf(target);
  const x = pairScale(box, model.encoding.pairs);
  const pair = Math.round((offset - x(0)) / (x(1) - x(0)));
  return Math.min(Math.max(pair, 0), model.encoding.pairs - 1);
}

function boxOf(target, height = HEIGHT) {
  const width = Math.max(240, Math.floor(target.parentElement.clientWidth));
  return {
    width,
    height,
    left: MARGIN.left,
    right: width - MARGIN.right,
    top: MARGIN.top,
    bottom: height - MARGIN.bottom,
  };
}

function redraw(target, { width, height }, children) {
  target.setAttribute("viewBox", `0 0 ${width} ${height}`);
  target.setAttribute("height", height);
  target.replaceChildren(...children);
}

function pairScale(box, pairs) {
  return linearScale([-0.5, pairs - 0.5], [box.left, box.right], Math.max(1, niceStep(pairs, 8)));
}

function sizeFor({ encoding }) {
  return Math.max(1.6, Math.min(4, 160 / encoding.pairs));
}

/** A full circle for a pre-critical pair, a diamond for a post-critical one. */
function pairMark(model, pair, point) {
  const pre = isPreCritical(model, pair);
  return mark(pre ? "circle" : "diamond", point, sizeFor(model), pre ? "pre" : "post");
}

function selected(box, x, pair) {
  const width = Math.max(3, x(1) - x(0));
  return svg("rect", { class: "selected", x: x(pair) - width / 2, width, y: box.top, height: box.bottom - box.top });
}

function criticalLine(box, x, { critical, encoding }) {
  if (critical === 0 || critical === encoding.pairs) return svg("g");
  const at = x(critical - 0.5);
  return svg("line", { class: "critical", x1: at, x2: at, y1: box.top, y2: box.bottom });
}

// Small pieces of SVG: elements, scales, axes, marks. Colours and strokes are classes of style/drawings.css.

const SVG = "http://www.w3.org/2000/svg";

/** An SVG element with attributes and children; a string becomes its text. */
export function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** A function from values to pixels, with `ticks`: values and labels. */
export function linearScale([low, high], [start, end], step) {
  const scale = (value) => start + ((value - low) / (high - low)) * (end - start);
  scale.ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i += 1) {
    const value = Number((i * step).toPrecision(12));
    scale.ticks.push([value, value.toLocaleString("en").replace("-", "−")]);
  }
  return scale;
}

/** As linearScale, for positive values; ticks at powers of ten, `room` pixels apart, and at 2 and 5 times them. */
export function logScale([low, high], [start, end], room) {
  const [from, to] = [Math.log10(low), Math.log10(high)];
  const scale = (value) => start + ((Math.log10(value) - from) / (to - from)) * (end - start);
  const every = Math.max(1, Math.ceil((room * (to - from)) / Math.abs(end - start)));
  scale.ticks = [];
  const between = room * 3 * (to - from) <= Math.abs(end - start) ? [1, 2, 5] : [1];
  for (let power = Math.floor(from); power <= to + 1e-9; power += 1) {
    for (const factor of power % every === 0 ? between : []) {
      const value = factor * 10 ** power;
      if (value >= low && value <= high)
        scale.ticks.push([value, factor === 1 ? powerOfTen(power) : value.toLocaleString("en")]);
    }
  }
  return scale;
}

/** A step for linear ticks: 1, 2 or 5 times a power of ten, at most `count` of them in the range. */
export function niceStep(range, count) {
  const rough = range / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= rough * (1 - 1e-9));
}

/** Grid lines, tick labels and names of both axes. */
export function axes({ left, right, top, bottom }, x, y, xName, yName) {
  const group = svg("g", { class: "axes" });
  for (const [value, label] of y.ticks) {
    group.append(
      svg("line", { x1: left, x2: right, y1: y(value), y2: y(value) }),
      svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, label),
    );
  }
  for (const [value, label] of x.ticks) {
    group.append(
      svg("line", { x1: x(value), x2: x(value), y1: bottom, y2: bottom + 4 }),
      svg("text", { x: x(value), y: bottom + 17, "text-anchor": "middle" }, label),
    );
  }
  group.append(
    svg("line", { class: "edge", x1: left, x2: right, y1: bottom, y2: bottom }),
    svg("text", { class: "name", x: right, y: bottom + 33, "text-anchor": "end" }, xName),
    svg("text", { class: "name", x: 2, y: top - 8 }, yName),
  );
  return group;
}

/** A line through points that are given in pixels. */
export function path(points, className) {
  const steps = points.map(([x, y], i) => `${i === 0 ? "M" : "L"}${x.toFixed(1)} ${y.toFixed(1)}`);
  return svg("path", { class: className, d: steps.join("") });
}

/** A mark at a point: "circle", "diamond" or "ring". */
export function mark(shape, [x, y], size, className) {
  if (shape === "diamond") {
    const r = size * 1.25;
    return svg("path", { class: className, d: `M${x} ${y - r}l${r} ${r}l${-r} ${r}l${-r} ${-r}z` });
  }
  return svg("circle", { class: `${className} ${shape}`, cx: x, cy: y, r: size });
}

/** A labelled line across the drawing, level at `y` or upright at `x`. */
export function limit({ left, right, top, bottom }, { x, y }, label, className) {
  const line = y === undefined ? { x1: x, x2: x, y1: top, y2: bottom } : { x1: left, x2: right, y1: y, y2: y };
  const place = y === undefined ? { x: x + 4, y: top + 10 } : { x: left + 4, y: y - 5 };
  return svg("g", { class: `limit ${className}` }, svg("line", line), svg("text", place, label));
}

function powerOfTen(power) {
  if (power >= 0 && power <= 4) return (10 ** power).toLocaleString("en");
  const digits = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
  return `10${[...String(power)].map((digit) => digits[digit]).join("")}`;
}

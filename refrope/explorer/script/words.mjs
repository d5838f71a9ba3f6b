// What the page says in words and in Python.

import { isPreCritical } from "./model.mjs";

/** A number for reading: whole numbers in full, others with four significant digits. */
export function said(x) {
  const whole = Number.isInteger(x) || Math.abs(x) >= 1e4;
  const digits = whole ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: Math.abs(x) < 1e-2 ? 2 : 4 };
  return x.toLocaleString("en", digits).replace("-", "−");
}

/** The encoding's name: "Resonance YaRN". */
export function nameOf(catalogue, state) {
  const { label } = catalogue.variants[state.variant];
  if (state.resonance) return `Resonance ${label}`;
  return label[0].toUpperCase() + label.slice(1);
}

/** The sentences that sum up a view; they are read out when they change. */
export function summaryOf(catalogue, model) {
  const { state, encoding, critical, gap } = model;
  const [train, test] = [said(state.train_length), said(state.test_length)];
  const preGap = Math.max(0, ...gap.filter((_, j) => isPreCritical(model, j)));
  const largest = Math.max(...gap);
  const sentences = [
    `With ${nameOf(catalogue, state)}, ${critical} of ${encoding.pairs} pairs are pre-critical: they make a full turn`,
    `within ${train} tokens of training. From ${train} to ${test} tokens the largest feature gap is ${said(largest)},`,
    `at pair ${gap.indexOf(largest)}${critical > 0 ? `; that of pre-critical pairs is ${gapWords(preGap)}` : ""}.`,
  ];
  if (state.positions === "bfloat16") sentences.push(roundingOf(model));
  if (encoding.attentionFactor !== 1) {
    const square = said(encoding.attentionFactor ** 2);
    sentences.push(`All logits are multiplied by ${square}, the square of the attention factor.`);
  }
  if (state.variant === "dynamic-ntk" && state.dialect === "hf") {
    sentences.push(`This is the form in force at ${test} tokens; up to ${train} tokens it is plain RoPE.`);
  }
  return sentences.join(" ");
}

/** What bfloat16 makes of the positions. */
export function roundingOf({ state, places }) {
  if (places === state.test_length) return `All ${said(places)} positions are exact in bfloat16.`;
  return `In bfloat16 the ${said(state.test_length)} positions fall on ${said(places)} different ones.`;
}

/** What there is to say of one pair. */
export function pairWords(model, pair) {
  const { state, encoding, trainCoverage, testCoverage, gap } = model;
  const wavelength = encoding.periods ? `exactly ${said(encoding.periods[pair])}` : said(encoding.wavelengths[pair]);
  const sentences = [
    `Pair ${pair} turns once in ${wavelength} tokens, ${slowness(encoding.stretch[pair])}, and is`,
    `${isPreCritical(model, pair) ? "pre" : "post"}-critical. Training sweeps ${percent(trainCoverage[pair])} of its`,
    `circle, the test ${percent(testCoverage[pair])}; its feature gap is ${gapWords(gap[pair])}.`,
  ];
  const off = spacingAt(state.test_length - 1) / 2;
  if (state.positions === "bfloat16" && off >= 1) {
    const turned = said(off * encoding.invFreq[pair]);
    sentences.push(`Near the end of the test rounding moves positions by up to ${off} tokens, here ${turned} radians.`);
  }
  return sentences.join(" ");
}

function gapWords(gap) {
  return gap === 0 ? "exactly 0" : said(gap);
}

function slowness(stretch) {
  if (stretch === 1) return "as in plain RoPE";
  return stretch > 1
    ? `${said(stretch)} times as slowly as in plain RoPE`
    : `${said(1 / stretch)} times as fast as in plain RoPE`;
}

/** How many tokens lie between neighbouring bfloat16 numbers just below or at a position. */
export function spacingAt(position) {
  return Math.max(1, 2 ** (Math.floor(Math.log2(Math.max(position, 1))) - 7));
}

export function percent(share) {
  if (share > 0 && share < 0.001) return "less than 0.1 %";
  return `${(100 * share).toLocaleString("en", { maximumFractionDigits: share < 0.1 ? 1 : 0 })} %`;
}

/** The encoding as a line of Python, after ``import refrope as rr``. */
export function pythonOf(catalogue, state, factor) {
  const { class: name, takes, dialects } = catalogue.variants[state.variant];
  const parts = [`head_dim=${state.head_dim}`, `base=${float(state.base)}`];
  if (takes.includes("factor")) parts.push(`factor=${float(factor)}`);
  if (takes.includes("original_length")) parts.push(`original_length=${state.train_length}`);
  if (dialects && state.dialect !== Object.keys(dialects)[0]) parts.push(`dialect="${state.dialect}"`);
  const inside = `rr.${name}(${parts.join(", ")})`;
  const whole = state.resonance ? `rr.Resonance(${inside})` : inside;
  return takes.includes("length") ? `${whole}.for_length(${state.test_length})` : whole;
}

function float(x) {
  return Number.isInteger(x) ? `${x}.0` : `${x}`;
}

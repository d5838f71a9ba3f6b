// Which angle does position m give to pair j? What refrope's classes answer, from the same formulas.

import { ONE, PI, divide, nearest, rounded } from "./exact.mjs";
import { plainInvFreq } from "./rope.mjs";
import { attentionFactorOf, stretchOf } from "./variants.mjs";

/**
 * The encoding that `parameters` describe: `variant` and the fields of its class in refrope, or
 * { variant: "resonance", encoding } for whole wavelengths, rounded after the scaling of the encoding inside.
 *
 * Returns, for each pair and each number the float64 nearest to the formula's value: invFreq in radians a token,
 * wavelengths in tokens, stretch over plain RoPE; periods, whole wavelengths, or null without Resonance;
 * attentionFactor, which multiplies cos and sin.
 */
export function encodingFrom(parameters) {
  const inside = parameters.variant === "resonance" ? parameters.encoding : parameters;
  const plain = plainInvFreq(inside);
  const slowed = stretchOf(inside);
  const scaled = slowed.map((stretch, j) => divide(plain[j], stretch));
  const periods = parameters.variant === "resonance" ? scaled.map((f) => rounded(divide(2n * PI, f))) : null;
  const invFreq = periods ? periods.map((period) => (2n * PI) / period) : scaled;
  const stretch = periods ? invFreq.map((f, j) => divide(plain[j], f)) : slowed;
  return {
    pairs: plain.length,
    invFreq: Float64Array.from(invFreq, nearest),
    wavelengths: Float64Array.from(invFreq, (f) => nearest(divide(2n * PI, f))),
    stretch: Float64Array.from(stretch, nearest),
    periods: periods && periods.map(Number),
    attentionFactor: attentionFactorOf(inside),
  };
}

/** The angle of a pair at a whole position below 2^53, in radians; with whole wavelengths within one turn. */
export function angleAt(encoding, pair, position) {
  return encoding.periods ? 2 * Math.PI * turnAt(encoding, pair, position) : position * encoding.invFreq[pair];
}

/** The part of its circle that a pair has turned by, from 0 to 1; of whole wavelengths (position mod w) / w. */
export function turnAt(encoding, pair, position) {
  if (encoding.periods) return (position % encoding.periods[pair]) / encoding.periods[pair];
  return (position * (encoding.invFreq[pair] / (2 * Math.PI))) % 1;
}

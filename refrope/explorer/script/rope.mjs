// Plain RoPE: pair j turns by position * base^(-2j/d) (Su et al. 2021, arXiv:2104.09864, Eq. 15).
//
// Here and in ramps.mjs and variants.mjs, p holds the fields of an encoding, under the names that refrope's classes
// have.

import { ONE, exact, exponential, logarithm, multiply } from "./exact.mjs";

/** Number of pairs of features that turn. */
export function pairsOf(p) {
  return (p.rotary_dim ?? p.head_dim) / 2;
}

/** A list with a value for each pair. */
export function eachPair(p, value) {
  return Array.from({ length: pairsOf(p) }, (_, j) => value(j));
}

/** base^(-2j/d), exact numbers in radians a token. */
export function plainInvFreq(p) {
  const ratio = exponential(-logarithm(exact(p.base)) / BigInt(pairsOf(p)));
  const powers = [ONE];
  while (powers.length < pairsOf(p)) powers.push(multiply(powers.at(-1), ratio));
  return powers;
}

// The two ramps between pairs that keep their frequency and pairs that are interpolated, as in
// refrope/encodings/ramps.py.

import { ONE, PI, ceiling, divide, exact, floor, logarithm, multiply, withinUnit } from "./exact.mjs";
import { eachPair, pairsOf, plainInvFreq } from "./rope.mjs";

/** The share that each pair keeps, linear in its turns within `length`: 0 at `slow` turns, 1 at `fast`. */
export function turnRamp(p, length, fast, slow) {
  const [from, to] = [exact(slow), exact(fast)];
  return plainInvFreq(p).map((frequency) => {
    const turns = divide(BigInt(length) * frequency, 2n * PI);
    if (from === to) return turns > from ? ONE : 0n; // the ramp is a step
    return withinUnit(divide(turns - from, to - from));
  });
}

/**
 * The share that each pair keeps, linear in its index: 1 at the one with `fast` turns within `length`, 0 at that with
 * `slow`. With `truncate` both ends are first rounded outwards to whole indices, as in the code of YaRN's authors.
 */
export function indexRamp(p, length, fast, slow, truncate = true) {
  let [low, high] = [fast, slow].map((turns) => indexWithTurns(p, length, turns));
  if (truncate) [low, high] = [floor(low), ceiling(high)];
  const last = BigInt(2 * pairsOf(p) - 1) * ONE;
  if (low < 0n) low = 0n;
  if (high > last) high = last;
  if (low === high) high += ONE / 1000n; // that code's way not to divide by zero
  return eachPair(p, (j) => ONE - withinUnit(divide(BigInt(j) * ONE - low, high - low)));
}

/** The real-valued pair index whose pair makes `turns` turns within `length` tokens. */
function indexWithTurns(p, length, turns) {
  const wanted = logarithm(divide(BigInt(length) * ONE, multiply(2n * PI, exact(turns))));
  return divide(BigInt(pairsOf(p)) * wanted, logarithm(exact(p.base)));
}

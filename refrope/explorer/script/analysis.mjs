// What wavelengths mean for a model that is trained within L tokens and tested within L': refrope/analysis.py and
// decay.py.
//
// Only angles count here: all pairs lie on unit circles, before the attention factor.

import { angleAt } from "./encodings.mjs";

/** Number of pairs whose wavelength is below `length`: those that make a full turn within it (pre-critical). */
export function criticalPair(encoding, length) {
  return encoding.wavelengths.filter((wavelength) => wavelength < length).length;
}

/** The share of its circle that each pair sweeps in `length` tokens: a token is the arc from its phase to the next. */
export function circleCoverage(encoding, length) {
  return encoding.wavelengths.map((wavelength) => Math.min(1, length / wavelength));
}

/**
 * How far a test position in [L, L') can be from all training positions in [0, L), for each pair: the greatest chord of
 * a unit circle between the worst test phase and its nearest training phase (Wang et al. 2024, arXiv:2403.00071, Eq.
 * 8). Exactly 0 for whole wavelengths of at most L tokens.
 */
export function featureGap(encoding, trainLength, testLength) {
  if (encoding.periods) {
    // The residue halfway between L - 1 and the period is the farthest, or L' - 1 if that comes first.
    return Float64Array.from(encoding.periods, (period) => {
      const halfway = Math.floor((period - trainLength + 1) / 2);
      return chord(Math.min(Math.max(halfway, 0), testLength - trainLength) / period);
    });
  }
  return encoding.invFreq.map((frequency) => chord(largestGap(frequency / (2 * Math.PI), trainLength, testLength)));
}

/** What distance does to the score of two equal vectors: the mean over pairs of cos(distance * inv_freq), 1 at 0. */
export function logitAt(encoding, distance) {
  let sum = 0;
  for (let j = 0; j < encoding.pairs; j += 1) sum += Math.cos(angleAt(encoding, j, distance));
  return sum / encoding.pairs;
}

/** The chord of a unit circle over an arc that is given in turns. */
export function chord(turns) {
  return 2 * Math.abs(Math.sin(Math.PI * turns));
}

/** How far a number is from the nearest whole one. */
export function fromWhole(x) {
  return Math.abs(x - Math.round(x));
}

/**
 * The feature gap of a pair in turns, in O(L') steps. Test position n sees the training positions 0 .. L - 1 at
 * distances n - L + 1 .. n, and at distance i the arc between two phases is `fromWhole(i * turns)`: the gap is the
 * largest minimum of L consecutive arcs. `queue` holds the distances of a window that may still have its minimum, their
 * arcs ascending.
 */
function largestGap(turns, trainLength, testLength) {
  const queue = new Int32Array(testLength);
  const arcs = new Float64Array(testLength);
  let [first, end, largest] = [0, 0, 0];
  for (let i = 1; i < testLength; i += 1) {
    const arc = fromWhole(i * turns);
    while (end > first && arcs[end - 1] >= arc) end -= 1;
    queue[end] = i;
    arcs[end] = arc;
    end += 1;
    if (queue[first] <= i - trainLength) first += 1;
    if (i >= trainLength) largest = Math.max(largest, arcs[first]);
  }
  return largest;
}

// All numbers that the page shows of a state, worked out once; panels, words and table only read them.

import { circleCoverage, criticalPair, featureGap, logitAt } from "./analysis.mjs";
import { coverageOfPlaces, gapOfPlaces, roundedLogitAt, roundedPlaces } from "./bfloat16.mjs";
import { encodingFrom } from "./encodings.mjs";
import { factorOf, parametersOf } from "./state.mjs";

const MOST_DISTANCES = 600; // that the logit is drawn at

/**
 * encoding, plain (RoPE of the same head_dim and base), factor; critical, the number of pre-critical pairs; train and
 * test coverage and gap of each pair, with positions as the state has them, and exactGap with exact ones; distances
 * with logits, and roundedLogits, or null where positions are exact; places, how many different positions rounding
 * leaves.
 */
export function modelOf(catalogue, state) {
  const { train_length: L, test_length: testLength, head_dim, base } = state;
  const encoding = encodingFrom(parametersOf(catalogue, state));
  const rounds = state.positions === "bfloat16";
  const [trained, tested] = [roundedPlaces(0, L), roundedPlaces(L, testLength)];
  const everywhere = [...new Set([...trained, ...tested])];
  const exactGap = featureGap(encoding, L, testLength);
  const distances = distancesUpTo(testLength - 1);
  return {
    state,
    encoding,
    plain: encodingFrom({ variant: "rope", head_dim, base }),
    factor: factorOf(state),
    critical: criticalPair(encoding, L),
    trainCoverage: rounds ? coverageOfPlaces(encoding, trained) : circleCoverage(encoding, L),
    testCoverage: rounds ? coverageOfPlaces(encoding, everywhere) : circleCoverage(encoding, testLength),
    exactGap,
    gap: rounds ? gapOfPlaces(encoding, trained, tested) : exactGap,
    distances,
    logits: distances.map((distance) => logitAt(encoding, distance)),
    roundedLogits: rounds ? distances.map((distance) => roundedLogitAt(encoding, testLength - 1, distance)) : null,
    places: everywhere.length,
  };
}

/** Whether a pair makes a full turn within the training length. */
export function isPreCritical({ state, encoding }, pair) {
  return encoding.wavelengths[pair] < state.train_length;
}

/** Whole distances from 1 to `most`: all of them, or as many as are drawn, evenly on a logarithmic axis. */
export function distancesUpTo(most) {
  const count = Math.min(most, MOST_DISTANCES);
  if (count === most) return Array.from({ length: most }, (_, i) => i + 1);
  return [...new Set(Array.from({ length: count }, (_, i) => Math.round(most ** (i / (count - 1)))))];
}

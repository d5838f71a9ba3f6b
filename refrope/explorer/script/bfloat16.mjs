// What is left of an encoding when positions are rounded to bfloat16 before they meet the frequencies.
//
// bfloat16 keeps 8 bits: whole numbers up to 256 are exact, then every second one up to 512, every fourth up to 1024
// ... so that neighbouring tokens share one position. Angles of the rounded positions are float64 here.

import { angleAt, turnAt } from "./encodings.mjs";
import { chord } from "./analysis.mjs";

const single = new Float32Array(1);
const bits = new Uint32Array(single.buffer);

/** The nearest bfloat16 of a finite number, ties to even, by way of float32. */
export function roundToBfloat16(x) {
  single[0] = x;
  // Half a unit less one, and one more for an odd upper half: a tie is carried up only to an even number.
  bits[0] = (bits[0] + 0x7fff + ((bits[0] >>> 16) & 1)) & 0xffff0000;
  return single[0];
}

/** The different places that positions from, from + 1 ... to - 1 have once rounded, ascending. */
export function roundedPlaces(from, to) {
  const places = [];
  for (let position = from; position < to; position += 1) {
    const place = roundToBfloat16(position);
    if (place !== places.at(-1)) places.push(place);
  }
  return places;
}

/** As circleCoverage, when only the tokens at `places` are there: the union of their arcs. */
export function coverageOfPlaces(encoding, places) {
  return encoding.wavelengths.map((wavelength, j) => {
    const phases = phasesOf(encoding, j, places);
    const arc = 1 / wavelength;
    const swept = phases.reduce((sum, phase, i) => sum + Math.min(arc, (phases[i + 1] ?? phases[0] + 1) - phase), 0);
    return Math.min(1, swept);
  });
}

/** As featureGap, of rounded positions. */
export function gapOfPlaces(encoding, trained, tested) {
  return encoding.wavelengths.map((_, j) => {
    const phases = phasesOf(encoding, j, trained);
    let largest = 0;
    for (const place of tested) largest = Math.max(largest, turnsFromNearest(phases, turnAt(encoding, j, place)));
    return chord(largest);
  });
}

/** As logitAt, of a query at `query` and the key `distance` tokens before it, both rounded. */
export function roundedLogitAt(encoding, query, distance) {
  const [ours, theirs] = [roundToBfloat16(query), roundToBfloat16(query - distance)];
  let sum = 0;
  for (let j = 0; j < encoding.pairs; j += 1) {
    sum += Math.cos(angleAt(encoding, j, ours) - angleAt(encoding, j, theirs));
  }
  return sum / encoding.pairs;
}

function phasesOf(encoding, pair, places) {
  return Float64Array.from(places, (place) => turnAt(encoding, pair, place)).sort();
}

/** The arc, in turns, from a phase to the nearest of `phases`, which ascend; by halving. */
function turnsFromNearest(phases, phase) {
  let [low, high] = [0, phases.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (phases[middle] < phase) low = middle + 1;
    else high = middle;
  }
  const above = (phases[low] ?? phases[0] + 1) - phase;
  const below = phase - (phases[low - 1] ?? phases.at(-1) - 1);
  return Math.min(above, below);
}

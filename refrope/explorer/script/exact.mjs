// Exact arithmetic for the formulas: fixed-point numbers in BigInt, 256 bits behind the point.
//
// refrope works its formulas out in 50 decimal digits and rounds to float64 once, at the end. The page does the same,
// so that both have the same frequencies bit for bit, and the same whole wavelengths when Resonance rounds them.

const BITS = 256n;
const HALVINGS = 24n; // of an exponent, so that its series is short; the squarings that follow cost as many bits

export const ONE = 1n << BITS;
export const PI =
  (314159265358979323846264338327950288419716939937510582097494459230781640628620899n * ONE) / 10n ** 80n;

/** A float64 as it is; bits below 2^-256 are lost. */
export function exact(value) {
  return BigInt(Math.trunc(value * 2 ** Number(BITS)));
}

/** The nearest float64. */
export function nearest(x) {
  return Number(x) * 2 ** -Number(BITS);
}

export function multiply(x, y) {
  return (x * y) >> BITS;
}

export function divide(x, y) {
  return (x << BITS) / y;
}

/** e^x, by its series at x / 2^24 and as many squarings. */
export function exponential(x) {
  const small = x >> HALVINGS;
  let sum = ONE;
  let term = ONE;
  for (let n = 1n; term !== 0n && term !== -1n; n += 1n) {
    term = multiply(term, small) / n;
    sum += term;
  }
  for (let n = 0n; n < HALVINGS; n += 1n) sum = multiply(sum, sum);
  return sum;
}

/** ln x for x > 0, from float64's by Halley's method: each step has three times as many digits right. */
export function logarithm(x) {
  let y = exact(Math.log(nearest(x)));
  for (let step = 0; step < 2; step += 1) {
    const power = exponential(y);
    y += divide(2n * (x - power), x + power);
  }
  return y;
}

/** The whole number below. */
export function floor(x) {
  return (x >> BITS) << BITS;
}

/** The whole number above. */
export function ceiling(x) {
  return -floor(-x);
}

/** The nearest whole number, a tie to the even one, as a plain BigInt. */
export function rounded(x) {
  const whole = x >> BITS;
  const rest = x - (whole << BITS);
  const up = rest > ONE / 2n || (rest === ONE / 2n && whole % 2n !== 0n);
  return up ? whole + 1n : whole;
}

/** Values below 0 raised to 0, values above 1 lowered to 1. */
export function withinUnit(x) {
  if (x < 0n) return 0n;
  return x > ONE ? ONE : x;
}

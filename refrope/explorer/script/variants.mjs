// How much slower does each pair turn than in plain RoPE? One function a variant, as exact_stretch of refrope's
// classes.
//
// Fields that are left out have the values that the classes give them.

import { ONE, divide, exact, exponential, logarithm, multiply, nearest, rounded } from "./exact.mjs";
import { eachPair, pairsOf } from "./rope.mjs";
import { indexRamp, turnRamp } from "./ramps.mjs";

/** The stretch of each pair, exact numbers. */
export function stretchOf(p) {
  return STRETCH[p.variant](p);
}

const STRETCH = {
  rope: (p) => eachPair(p, () => ONE),
  linear: (p) => eachPair(p, () => exact(p.factor)),
  ntk: ntkStretch,
  "dynamic-ntk": dynamicStretch,
  "ntk-by-parts": byPartsStretch,
  yarn: yarnStretch,
  llama3: llama3Stretch,
};

/** What the name NTK-aware has meant; see refrope.NTKAware. */
function ntkStretch(p) {
  const pairs = pairsOf(p);
  switch (p.dialect ?? "ntk-aware") {
    case "ntk-aware":
      return baseStretch(p, exact(p.factor));
    case "scaled-base":
      return powers(p, exact(p.factor), (j) => [j, pairs]);
    case "fixed":
      return powers(p, exact(p.factor), (j) => [j + 1, pairs]);
    case "mixed": {
      const log = logarithm(exact(p.factor));
      const exponent = exact(p.mixed_b ?? 0.75);
      const share = (j) => exponential(multiply(exponent, logarithm((BigInt(j + 1) * ONE) / BigInt(pairs))));
      return eachPair(p, (j) => exponential(multiply(log, share(j))));
    }
    default:
      throw new RangeError(`ntk: unknown dialect ${p.dialect}`);
  }
}

/** NTK-aware by as much as `length` tokens need; dialect "vllm": as factor * original_length tokens need, always. */
function dynamicStretch(p) {
  const factor = exact(p.factor);
  const original = BigInt(p.original_length);
  const longest = BigInt(Math.max(p.length ?? 0, p.original_length)) * ONE;
  const length = p.dialect === "vllm" ? factor * original : longest;
  return baseStretch(p, multiply(factor, length / original) - (factor - ONE));
}

/** Linear, NTK-aware and plain frequencies, mixed by two ramps over the pair index. */
function byPartsStretch(p) {
  const linearShare = indexRamp(p, p.original_length, ...(p.linear_turns ?? [1.25, 0.75]));
  const kept = indexRamp(p, p.original_length, ...(p.kept_turns ?? [16, 2]));
  const factor = exact(p.factor);
  const ntk = baseStretch(p, factor);
  return eachPair(p, (j) => {
    const mixed = divide(ONE - linearShare[j], factor) + divide(linearShare[j], ntk[j]);
    return divide(ONE, multiply(ONE - kept[j], mixed) + kept[j]);
  });
}

/** Slow pairs interpolated, fast ones kept, a ramp between, in both published forms of the ramp and of the mixture. */
function yarnStretch(p) {
  const [fast, slow] = [p.beta_fast ?? 32, p.beta_slow ?? 1];
  const target = () => Number(rounded(exact(p.original_length * p.factor)));
  const kept =
    p.ramp === "turns"
      ? turnRamp(p, p.original_length, fast, slow)
      : indexRamp(p, p.target_ramp ? target() : p.original_length, fast, slow, p.truncate ?? true);
  if (p.blend === "wavelength") return kept.map((share) => multiply(ONE - share, exact(p.factor)) + share);
  return frequencyBlend(kept, p.factor);
}

/** YaRN's turn ramp from 4 turns to 1. */
function llama3Stretch(p) {
  return frequencyBlend(turnRamp(p, p.original_length, p.high_freq_factor ?? 4, p.low_freq_factor ?? 1), p.factor);
}

/** 1 / ((1 - k) / factor + k) for the share k that each pair keeps. */
function frequencyBlend(kept, factor) {
  return kept.map((share) => divide(ONE, divide(ONE - share, exact(factor)) + share));
}

/** scale^(j/(p-1)) for p pairs: the stretch of base b scale^(d/(d-2)) over base b. */
function baseStretch(p, scale) {
  return powers(p, scale, (j) => [j, pairsOf(p) - 1]);
}

/** scale to the power of a fraction that depends on the pair. */
function powers(p, scale, fraction) {
  const log = logarithm(scale);
  return eachPair(p, (j) => {
    const [numerator, denominator] = fraction(j);
    return exponential((log * BigInt(numerator)) / BigInt(denominator));
  });
}

/** What multiplies cos and sin, float64: YaRN's 0.1 ln(factor) + 1, or DeepSeek's quotient; 1 for other variants. */
export function attentionFactorOf(p) {
  if (p.variant !== "yarn") return 1;
  if (p.attention_factor != null) return p.attention_factor;
  const log = logarithm(exact(Math.max(p.factor, 1)));
  const amplitude = (coefficient) => ONE + multiply(exact(coefficient), log) / 10n;
  const both = p.mscale && p.mscale_all_dim;
  return nearest(both ? divide(amplitude(p.mscale), amplitude(p.mscale_all_dim)) : amplitude(1));
}

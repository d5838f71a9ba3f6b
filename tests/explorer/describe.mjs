// What the explorer makes of states: `node describe.mjs MODULES CATALOGUE.json < states.json` prints a list as JSON.

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [modules, catalogueFile] = process.argv.slice(2);
const load = (name) => import(`${pathToFileURL(modules)}/${name}.mjs`);
const { changed, fragmentOf, stateFromFragment } = await load("state");
const { modelOf } = await load("model");
const { phasesOfPair } = await load("circle");
const { pairWords, pythonOf, roundingOf, summaryOf } = await load("words");
const catalogue = JSON.parse(readFileSync(catalogueFile, "utf8"));

const start = {
  ...{ variant: "rope", dialect: null, resonance: false, head_dim: 64, base: 10000, train_length: 64 },
  ...{ test_length: 256, factor: null, positions: "exact", pair: 8 },
};

function describe(values) {
  const state = changed(catalogue, start, values);
  const model = modelOf(catalogue, state);
  const { encoding } = model;
  const again = stateFromFragment(catalogue, fragmentOf(state), start);
  const phases = phasesOfPair(model, state.pair);
  return {
    state,
    again,
    fragment: fragmentOf(state),
    python: pythonOf(catalogue, state, model.factor),
    summary: summaryOf(catalogue, model),
    pair_words: pairWords(model, state.pair),
    rounding: roundingOf(model),
    inv_freq: [...encoding.invFreq],
    wavelengths: [...encoding.wavelengths],
    attention_factor: encoding.attentionFactor,
    critical: model.critical,
    train_coverage: [...model.trainCoverage],
    test_coverage: [...model.testCoverage],
    exact_gap: [...model.exactGap],
    gap: [...model.gap],
    distances: model.distances,
    logits: model.logits,
    rounded_logits: model.roundedLogits,
    phases: { trained: phases.trained.size, seen: phases.seen.size, unseen: phases.unseen.size },
  };
}

/** A description of values to change, or what a fragment (a string) means. */
function answer(asked) {
  if (typeof asked === "string") return stateFromFragment(catalogue, asked, start);
  try {
    return describe(asked);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return { error: error.message };
  }
}

console.log(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(answer)));

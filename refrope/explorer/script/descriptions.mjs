// What each drawing shows, in a sentence, for those who do not see it. The table has the numbers.

import { nameOf, percent, said, spacingAt } from "./words.mjs";

/** Set the text that stands for each drawing; `$` finds elements by id. */
export function describePanels($, catalogue, model) {
  const texts = descriptionsOf(catalogue, model);
  for (const [id, text] of Object.entries(texts)) $(id).setAttribute("aria-label", text);
}

/** The texts, by the id of the drawing. */
export function descriptionsOf(catalogue, model) {
  const { state, encoding, critical, trainCoverage, testCoverage, gap, distances, logits, roundedLogits } = model;
  const last = encoding.pairs - 1;
  const swept = (shares) => shares.filter((share) => share === 1).length;
  const lowest = (values) => {
    const i = values.indexOf(Math.min(...values));
    return `${said(values[i])} at distance ${said(distances[i])}`;
  };
  const zeros = gap.filter((value) => value === 0).length;
  const end = state.test_length - 1;
  return {
    wavelengths:
      `Wavelengths of ${nameOf(catalogue, state)} rise from ${said(encoding.wavelengths[0])} tokens at pair 0 to ` +
      `${said(encoding.wavelengths[last])} at pair ${last}; ${critical} of them are below the training length.`,
    coverage:
      `Training sweeps the whole circle of ${swept(trainCoverage)} pairs, the test that of ${swept(testCoverage)}; ` +
      `of the slowest pair ${percent(trainCoverage[last])} and ${percent(testCoverage[last])}.`,
    gap: `The feature gap is exactly 0 for ${zeros} of ${encoding.pairs} pairs and at most ${said(Math.max(...gap))}.`,
    logits:
      `The logit falls from 1 at distance 0; its lowest value is ${lowest(logits)}` +
      (roundedLogits ? `, with positions in bfloat16 ${lowest(roundedLogits)}.` : "."),
    spacing: `Near position ${said(end)}, ${said(spacingAt(end))} tokens share one position in bfloat16.`,
    circle: `The circle of pair ${state.pair}, with the phases of training and of the test.`,
  };
}

// One pair's circle: which phases training has shown, and which the test asks for.

import { mark, svg } from "./svg.mjs";
import { turnAt } from "./encodings.mjs";
import { roundToBfloat16 } from "./bfloat16.mjs";
import { said } from "./words.mjs";

const SIZE = 250;
const RADIUS = 86;
const BINS = 720; // phases nearer to each other than half a degree are drawn as one

/** Phases of training outside the circle, those of the test inside: the ones that training has shown, and new ones. */
export function drawCircle(target, phases) {
  const group = svg("g", { transform: `translate(${SIZE / 2} ${SIZE / 2})` });
  group.append(svg("circle", { class: "orbit", r: RADIUS, cx: 0, cy: 0 }));
  const place = (turn, radius) => {
    const angle = 2 * Math.PI * turn;
    return [radius * Math.cos(angle), -radius * Math.sin(angle)];
  };
  for (const turn of thinned(phases.trained)) group.append(mark("circle", place(turn, RADIUS + 12), 2.6, "train-dot"));
  for (const turn of thinned(phases.seen)) group.append(mark("circle", place(turn, RADIUS - 12), 2.6, "pre"));
  for (const turn of thinned(phases.unseen)) group.append(mark("diamond", place(turn, RADIUS - 24), 2.4, "post"));
  target.setAttribute("viewBox", `0 0 ${SIZE} ${SIZE}`);
  target.replaceChildren(group);
}

/** The different phases of a pair, in turns: of training, and of the test those that training has and has not. */
export function phasesOfPair(model, pair) {
  const { encoding, state } = model;
  const place = state.positions === "bfloat16" ? roundToBfloat16 : (position) => position;
  const trained = new Set();
  for (let m = 0; m < state.train_length; m += 1) trained.add(turnAt(encoding, pair, place(m)));
  const [seen, unseen] = [new Set(), new Set()];
  for (let n = state.train_length; n < state.test_length; n += 1) {
    const turn = turnAt(encoding, pair, place(n));
    (trained.has(turn) ? seen : unseen).add(turn);
  }
  return { trained, seen, unseen };
}

/** How many phases there are of each kind, in words. */
export function phaseWords({ trained, seen, unseen }) {
  const [all, fresh] = [seen.size + unseen.size, unseen.size];
  const which = fresh === 0 ? "none of them new" : fresh === all ? "all of them new" : `${said(fresh)} of them new`;
  return `Training shows ${said(trained.size)} phases; the test takes ${said(all)}, ${which}.`;
}

function thinned(phases) {
  const bins = new Map();
  for (const turn of phases) bins.set(Math.floor(turn * BINS), turn);
  return bins.values();
}

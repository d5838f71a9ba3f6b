// The page: a state, its model, and what shows them. Changes are drawn once a frame; the address and what is read out
// wait for a pause.

import { angleAt, encodingFrom, turnAt } from "./encodings.mjs";
import { circleCoverage, criticalPair, featureGap, logitAt } from "./analysis.mjs";
import { roundToBfloat16 } from "./bfloat16.mjs";
import { connectControls, showState } from "./controls.mjs";
import { drawCircle, phaseWords, phasesOfPair } from "./circle.mjs";
import { drawCoverage, drawGap, drawLogits, drawSpacing, drawWavelengths, pairAt } from "./panels.mjs";
import { changed, fragmentOf, stateFromFragment } from "./state.mjs";
import { describePanels } from "./descriptions.mjs";
import { fillTable } from "./table.mjs";
import { modelOf } from "./model.mjs";
import { pairWords, pythonOf, roundingOf, summaryOf } from "./words.mjs";

const PAUSE = 400; // milliseconds

const $ = (id) => document.getElementById(id);
const { catalogue, start } = JSON.parse($("data").textContent);
const form = $("controls");

const BY_PAIR = { wavelengths: drawWavelengths, coverage: drawCoverage, gap: drawGap };
const OTHERS = { logits: drawLogits, spacing: drawSpacing };

let state = changed(catalogue, start, {});
let model = null;
let frame = null;
let timer = null;
let moved = false;

/** Take over what changes, and draw it with the next frame. */
function change(changes) {
  state = changed(catalogue, state, changes);
  moved = true;
  $("complaints").textContent = "";
  showSoon();
}

function showSoon() {
  frame ??= requestAnimationFrame(() => {
    frame = null;
    show();
  });
}

/** Work the numbers out and show all of them. */
function show() {
  if (!model || Object.keys(state).some((name) => name !== "pair" && state[name] !== model.state[name])) {
    model = modelOf(catalogue, state);
    fillTable($("pairs"), model);
    $("python").textContent = `enc = ${pythonOf(catalogue, state, model.factor)}`;
    $("rounding").textContent = roundingOf(model);
  }
  model.state = state;
  document.body.classList.toggle("rounded", state.positions === "bfloat16");
  showState(form, catalogue, state, model.encoding.wavelengths[state.pair]);
  draw();
  const phases = phasesOfPair(model, state.pair);
  drawCircle($("circle"), phases);
  $("pair-words").textContent = `${pairWords(model, state.pair)} ${phaseWords(phases)}`;
  describePanels($, catalogue, model);
  clearTimeout(timer);
  timer = setTimeout(settle, moved ? PAUSE : 0);
}

/** What follows a change when no other comes: the words, which are read out, and the address. */
function settle() {
  const words = summaryOf(catalogue, model);
  if (words !== $("summary").textContent) $("summary").textContent = words;
  if (!moved) return;
  try {
    history.replaceState(null, "", `#${fragmentOf(state)}`);
  } catch {
    // A page inside another one may have no address of its own.
  }
}

function draw() {
  for (const [id, panel] of Object.entries({ ...BY_PAIR, ...OTHERS })) panel($(id), model);
}

function readAddress() {
  const fragment = location.hash.slice(1);
  if (fragment === "") return;
  const read = stateFromFragment(catalogue, fragment, changed(catalogue, start, {}));
  state = read.state;
  $("complaints").textContent = read.complaints.length
    ? `Not all of the address is understood: ${read.complaints.join("; ")}.`
    : "";
  showSoon();
}

async function copyPython() {
  let done = "Copied.";
  try {
    await navigator.clipboard.writeText($("python").textContent);
  } catch {
    getSelection().selectAllChildren($("python"));
    done = "Selected: copy it with the keyboard.";
  }
  $("copied").textContent = done;
}

connectControls(form, catalogue, change);
for (const id of Object.keys(BY_PAIR)) {
  $(id).addEventListener("click", (event) => {
    change({ pair: pairAt($(id), model, event.clientX - $(id).getBoundingClientRect().left) });
  });
}
$("copy").addEventListener("click", copyPython);
for (const { label, fragment } of catalogue.examples) {
  const link = Object.assign(document.createElement("a"), { href: `#${fragment}`, textContent: label });
  const item = document.createElement("li");
  item.append(link);
  $("examples").append(item);
}
addEventListener("hashchange", readAddress);
new ResizeObserver(() => model && draw()).observe($("panels"));
readAddress();
show();

// For the console, and for the tests that hold these functions to refrope's vectors.
globalThis.refrope = {
  angleAt,
  circleCoverage,
  criticalPair,
  encodingFrom,
  featureGap,
  logitAt,
  roundToBfloat16,
  turnAt,
};

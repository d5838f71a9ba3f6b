// The form: every control shows the state and changes it. Numbers have a field for exact values and a slider.

import { factorOf, readNumber } from "./state.mjs";
import { said } from "./words.mjs";

const STEPS = 4; // of a slider while its number doubles

/** Numbers that sliders stop at: even or whole ones, or two digits. */
const SNAP = {
  head_dim: (x) => 2 * Math.round(x / 2),
  base: (x) => Number(x.toPrecision(2)),
  train_length: Math.round,
  test_length: Math.round,
  factor: (x) => Number(x.toPrecision(2)),
};

/** Call `change` with what a person does, {name: value}; where that is refused, say so beside the field. */
export function connectControls(form, catalogue, change) {
  const { variant, dialect, resonance, positions, pair, follow } = form.elements;
  for (const [name, { label }] of Object.entries(catalogue.variants)) {
    variant.append(new Option(label[0].toUpperCase() + label.slice(1), name));
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  variant.addEventListener("change", () => change({ variant: variant.value }));
  dialect.addEventListener("change", () => change({ dialect: dialect.value }));
  resonance.addEventListener("change", () => change({ resonance: resonance.checked }));
  positions.addEventListener("change", () => change({ positions: positions.checked ? "bfloat16" : "exact" }));
  pair.addEventListener("input", () => change({ pair: Number(pair.value) }));
  follow.addEventListener("change", () => {
    const { least, most } = catalogue.numbers.factor; // L' / L may be beyond them
    const value = Math.min(Math.max(Number(form.elements.factor.value), least), most);
    change({ factor: follow.checked ? null : value });
  });
  for (const name of Object.keys(catalogue.numbers)) connectNumber(form, catalogue, name, change);
}

function connectNumber(form, catalogue, name, change) {
  const { least, most } = catalogue.numbers[name];
  const field = form.elements[name];
  const slider = form.elements[`${name}_slider`];
  Object.assign(slider, { min: STEPS * Math.log2(least), max: STEPS * Math.log2(most), step: 1 });
  const attempt = (text) => {
    try {
      change({ [name]: readNumber(catalogue, name, text) });
      for (const other of Object.keys(catalogue.numbers)) complain(form, other, ""); // they all show the state now
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      complain(form, name, error.message);
    }
  };
  field.addEventListener("input", () => attempt(field.value));
  slider.addEventListener("input", () => {
    const value = SNAP[name](2 ** (slider.value / STEPS));
    const lowest = name === "test_length" ? Number(form.elements.train_length.value) + 1 : least;
    attempt(Math.min(Math.max(value, lowest), most));
  });
}

/** Show what is wrong with a number, beside its field; an empty text takes it away. */
function complain(form, name, text) {
  document.getElementById(`${name}-error`).textContent = text;
  form.elements[name].setAttribute("aria-invalid", String(text !== ""));
}

/** Let the controls show a state and its pair's wavelength; a field that is being typed in keeps its text. */
export function showState(form, catalogue, state, wavelength) {
  const { variant, dialect, resonance, positions, pair, follow, factor, factor_slider: factorSlider } = form.elements;
  const { takes, dialects } = catalogue.variants[state.variant];
  variant.value = state.variant;
  dialect.replaceChildren(...Object.keys(dialects ?? {}).map((name) => new Option(name)));
  dialect.value = state.dialect ?? "";
  dialect.closest(".field").hidden = !dialects;
  resonance.checked = state.resonance;
  positions.checked = state.positions === "bfloat16";
  Object.assign(pair, { max: state.head_dim / 2 - 1, value: state.pair });
  pair.setAttribute("aria-valuetext", `pair ${state.pair}, ${said(wavelength)} tokens`);
  follow.checked = state.factor === null;
  for (const element of [factor, factorSlider, follow]) element.disabled = !takes.includes("factor");
  for (const name of Object.keys(catalogue.numbers)) {
    const value = name === "factor" ? factorOf(state) : state[name];
    const field = form.elements[name];
    if (field !== document.activeElement) field.value = Number(value.toPrecision(12));
    const slider = form.elements[`${name}_slider`];
    slider.value = STEPS * Math.log2(value);
    slider.setAttribute("aria-valuetext", value.toLocaleString("en"));
  }
}

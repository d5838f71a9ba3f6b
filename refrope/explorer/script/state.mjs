// What a person has chosen, as an object, as the fragment of the page's address, and as an encoding.
//
// A state has `variant`, `dialect` (null: the variant has none), `resonance`, the numbers of catalogue.json under their
// names (factor null: test length / train length), `positions` ("exact" or "bfloat16") and `pair`, the one looked at.

const POSITIONS = ["exact", "bfloat16"];

/** `text` as the number `name`, or a RangeError that says what was expected. */
export function readNumber(catalogue, name, text) {
  const { words, least, most } = catalogue.numbers[name];
  const value = String(text).trim() === "" ? NaN : Number(text);
  const whole = words === "a number" || value % (words === "an even integer" ? 2 : 1) === 0;
  if (!(value >= least && value <= most && whole)) {
    const wanted = `${words} from ${least.toLocaleString("en")} to ${most.toLocaleString("en")}`;
    throw new RangeError(`${spoken(name)} is ${text === "" ? "empty" : text}, expected ${wanted}`);
  }
  return value;
}

/** `state` with some values changed, and the others moved where they have to: L' above L, the pair within the head. */
export function changed(catalogue, state, changes) {
  const next = { ...state, ...changes };
  const longest = catalogue.numbers.test_length.most;
  if (next.test_length <= next.train_length) {
    if ("test_length" in changes) {
      throw new RangeError(
        `test length is ${next.test_length}, expected more than the training length ${next.train_length}`,
      );
    }
    next.test_length = Math.min(4 * next.train_length, longest);
  }
  const dialects = Object.keys(catalogue.variants[next.variant].dialects ?? {});
  if (!dialects.includes(next.dialect)) next.dialect = dialects[0] ?? null;
  next.pair = Math.min(next.pair, next.head_dim / 2 - 1);
  return next;
}

/** The factor in force. */
export function factorOf(state) {
  return state.factor ?? state.test_length / state.train_length;
}

/** The fields of the encoding, as `encodingFrom` takes them. */
export function parametersOf(catalogue, state) {
  const { takes, dialects } = catalogue.variants[state.variant];
  const values = { factor: factorOf(state), original_length: state.train_length, length: state.test_length };
  const inside = { variant: state.variant, head_dim: state.head_dim, base: state.base };
  for (const name of takes) inside[name] = values[name];
  Object.assign(inside, dialects?.[state.dialect]);
  return state.resonance ? { variant: "resonance", dialect: "after", encoding: inside } : inside;
}

/** The state as a fragment, without "#"; what has its usual value is left out where that loses nothing. */
export function fragmentOf(state) {
  const parts = { variant: state.variant, dialect: state.dialect, resonance: state.resonance ? "on" : null };
  for (const name of ["head_dim", "base", "train_length", "test_length", "factor"]) parts[name] = state[name];
  parts.positions = state.positions === "exact" ? null : state.positions;
  parts.pair = state.pair;
  const given = Object.entries(parts).filter(([, value]) => value !== null);
  return new URLSearchParams(given.map(([name, value]) => [name.replace("_", "-"), value])).toString();
}

/** The state that a fragment says, `start` where it is silent, and a list of complaints about what it cannot say. */
export function stateFromFragment(catalogue, fragment, start) {
  const complaints = [];
  const said = {};
  for (const [key, text] of new URLSearchParams(fragment)) {
    try {
      said[key.replace("-", "_")] = readPart(catalogue, key.replace("-", "_"), text, start);
    } catch (error) {
      complaints.push(error.message);
    }
  }
  try {
    if (Object.keys(said).length > 0) said.factor ??= null; // a shared view without a factor has the one that follows
    return { state: changed(catalogue, start, said), complaints };
  } catch (error) {
    return { state: start, complaints: [...complaints, error.message] };
  }
}

function readPart(catalogue, name, text, start) {
  if (Object.hasOwn(catalogue.numbers, name)) return readNumber(catalogue, name, text);
  const wanted = {
    variant: Object.keys(catalogue.variants),
    dialect: Object.values(catalogue.variants).flatMap(({ dialects }) => Object.keys(dialects ?? {})),
    resonance: ["on", "off"],
    positions: POSITIONS,
  };
  if (name === "pair") {
    if (/^\d+$/.test(text)) return Number(text);
    throw new RangeError(`pair is ${text}, expected a whole number`);
  }
  if (!Object.hasOwn(wanted, name)) {
    const known = Object.keys(start).map((key) => key.replace("_", "-"));
    throw new RangeError(`the address says ${name}, which is none of ${known.join(", ")}`);
  }
  if (!wanted[name].includes(text))
    throw new RangeError(`${name} is ${text}, expected one of ${wanted[name].join(", ")}`);
  return name === "resonance" ? text === "on" : text;
}

function spoken(name) {
  return name.replace("_", " ");
}

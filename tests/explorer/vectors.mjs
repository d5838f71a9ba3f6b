// Hold the explorer's encodings to refrope's test vectors. Node: `node vectors.mjs MODULES VECTORS` prints JSON;
// .ci/check_explorer.py evaluates the functions in a browser, inside a written page.

// Angles: the roundings of inv_freq and of the product, then cos itself; a period's phase: the division, 2 pi and the
// product. The attention factor is rounded once and multiplied once. These are the bounds of refrope/vectors/bounds.py.
const ANGLE_ROUNDINGS = 4;
const COS_ERROR = 2 ** -50;
const PHASE_ERROR = 3 * 2 * Math.PI * 2 ** -53 + COS_ERROR;
const AMPLITUDE_ROUNDINGS = 2;

const KNOWN = ["rope", "linear", "ntk", "dynamic-ntk", "ntk-by-parts", "yarn", "llama3"];

/** Whether the explorer has the encoding of a group of vectors. */
export function isKnown(parameters) {
  if (parameters.variant !== "resonance") return KNOWN.includes(parameters.variant);
  return parameters.dialect === "after" && KNOWN.includes(parameters.encoding.variant);
}

/** What differs between the vectors of a file, parsed, and the page's functions: counts, and a line a failure. */
export function compareFile(page, file) {
  const found = { groups: 0, skipped: 0, equal: 0, entries: 0, worst: 0, failures: [] };
  for (const group of file.groups) {
    if (!isKnown(group.parameters)) {
      found.skipped += 1;
      continue;
    }
    found.groups += 1;
    const encoding = page.encodingFrom(group.parameters);
    compareNumbers(group, encoding, found);
    for (const each of group.cases) compareTable(page, group, encoding, each, found);
  }
  return found;
}

/** Frequencies, wavelengths, stretch, whole periods and attention factor: equal bit for bit, without any tolerance. */
function compareNumbers(group, encoding, found) {
  const lists = [
    ["inv_freq", encoding.invFreq],
    ["wavelengths", encoding.wavelengths],
    ["stretch", encoding.stretch],
    ["periods", encoding.periods ?? undefined],
    ["attention_factor", [encoding.attentionFactor]],
  ];
  for (const [name, numbers] of lists) {
    const wanted = typeof group[name] === "number" ? [group[name]] : group[name];
    if (numbers?.length !== wanted?.length) found.failures.push(`${group.id}: ${name} has another length`);
    wanted?.forEach((value, j) => {
      if (Object.is(numbers[j], value)) found.equal += 1;
      else found.failures.push(`${group.id}: ${name}[${j}] is ${numbers[j]}, expected ${value}`);
    });
  }
}

/** cos and sin at a position, within the bounds; positions that JSON's float64 spoils are left out. */
function compareTable(page, group, encoding, { id, position, cos, sin }, found) {
  if (!Number.isSafeInteger(position)) return;
  const amplitude = group.attention_factor;
  cos.forEach((_, j) => {
    const angle = page.angleAt(encoding, j, position);
    const phase = group.periods
      ? PHASE_ERROR
      : ANGLE_ROUNDINGS * 2 ** -53 * Math.abs(position) * group.inv_freq[j] + COS_ERROR;
    const bound = amplitude * (phase + AMPLITUDE_ROUNDINGS * 2 ** -53);
    for (const [name, value, wanted] of [
      ["cos", Math.cos(angle), cos[j]],
      ["sin", Math.sin(angle), sin[j]],
    ]) {
      const error = Math.abs(amplitude * value - wanted);
      found.entries += 1;
      found.worst = Math.max(found.worst, error / bound);
      if (!(error <= bound)) found.failures.push(`${id}: ${name}[${j}] is off by ${error}, expected ${bound}`);
    }
  });
}

if (typeof process !== "undefined" && process.argv[1]?.endsWith("vectors.mjs")) {
  const { readFileSync } = await import("node:fs");
  const { pathToFileURL } = await import("node:url");
  const [modules, vectors] = process.argv.slice(2);
  const page = await import(`${pathToFileURL(modules)}/encodings.mjs`);
  const results = {};
  for (const name of [...KNOWN, "resonance"]) {
    results[name] = compareFile(page, JSON.parse(readFileSync(`${vectors}/${name}.json`, "utf8")));
  }
  console.log(JSON.stringify(results));
}

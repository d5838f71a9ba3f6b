"""Encodings of several axes: tables at tokens with two, three or four ids, and rotated rows with their logits."""

from __future__ import annotations

import mpmath
from mpmath import fdot, mpf
from vectors_flags import ROTATION_FLAGS, Flag
from vectors_formulas import Parameters, rotated, setting, sixty_fourths
from vectors_logits import Record, as_floats, encoding, flags_of, group

Ids = tuple[int, ...]
ROWS = 5
TABLES_ALONE = ("four axes on an NTK-aware base", "around Resonance, in turn")  # rotation is that of the others


# ---- which pair follows which axis, how fast ----


def axis_of(p: Parameters, pair: int, pairs: int) -> int:
    """The axis that a pair follows."""
    if p["variant"] == "axial-2d":
        first = pair < pairs // 2
        return int(first if p["form"] == "offset" else not first)
    sections = p["sections"]
    if not p["interleaved"]:
        return next(axis for axis in range(len(sections)) if pair < sum(sections[: axis + 1]))
    if pair % 3 in (1, 2) and pair < 3 * sections[pair % 3]:
        return pair % 3
    if pair % 3 == 0 and pair < 3 * sections[0]:
        return 0
    return 0 if p["leftover"] == "t" else 3


def frequencies(p: Parameters) -> list[mpf]:
    """Radians per step of the pair's axis."""
    if p["variant"] == "mrope":
        return setting(p["encoding"]).inv_freq
    d, base = p["head_dim"], mpf(p["base"])
    quarter = range(d // 4)
    if p["form"] == "evenodd":
        exponents = [mpf(-4 * j) / d for j in quarter] + [mpf(-4 * j - 2) / d for j in quarter]
    else:
        exponents = [mpf(-2 * j) / (mpf(d) / 2) for j in quarter] * 2
    return [mpmath.power(base, e) for e in exponents]


def tables(p: Parameters, ids: Ids) -> tuple[list[mpf], list[mpf]]:
    """Cos and sin of every pair of a token, amplitude included."""
    if p["variant"] == "mrope":
        exact = setting(p["encoding"])
        each = [exact.table(place, None) for place in ids]
    else:
        each = []
        for place in ids:
            both = [mpmath.cos_sin(place * f) for f in frequencies(p)]
            each.append(([c for c, _ in both], [s for _, s in both]))
    pairs = len(each[0][0])
    chosen = [each[axis_of(p, pair, pairs)] for pair in range(pairs)]
    return [cos[i] for i, (cos, _) in enumerate(chosen)], [sin[i] for i, (_, sin) in enumerate(chosen)]


# ---- flags ----

AXES_GROUP_FLAGS: dict[str, Flag] = {
    "ChunkedAxes": Flag(
        "The pairs of an axis stand side by side, and the frequency's index goes on from one axis to the next.",
        "Axes dealt out in turn; an index that starts again with each axis.",
        lambda p, _: p["variant"] == "mrope" and not p["interleaved"],
    ),
    "DealtAxes": Flag(
        "Axes are dealt out to the pairs in turn: t, h, w, t, h, w ... (interleaved).",
        "The chunked order. The interleaved feature layout, which is another thing, in its place.",
        lambda p, _: p["variant"] == "mrope" and p["interleaved"],
    ),
    "LeftoverToTime": Flag(
        "Places of h or w beyond 3 times its section follow t.",
        "A fourth id there, or h and w in every third place to the end.",
        lambda p, n: _leftover(p, n) and p["leftover"] == "t",
    ),
    "LeftoverToFourth": Flag(
        "Places of h or w beyond 3 times its section follow a fourth id.",
        "t there.",
        lambda p, n: _leftover(p, n) and p["leftover"] == "fourth",
    ),
    "SharedFrequencies": Flag(
        "Rows and columns turn with the same frequencies, those of half of the features.",
        "One list of frequencies over all features, dealt out to both.",
        lambda p, _: p["variant"] == "axial-2d" and p["form"] != "evenodd",
    ),
    "EvenOddFrequencies": Flag(
        "One list of frequencies over all features: rows have the even-numbered ones, columns the odd-numbered.",
        "The same frequencies for both; the first and the second half of the list.",
        lambda p, _: p.get("form") == "evenodd",
    ),
    "ColumnsFirst": Flag(
        "The first half of the pairs follows the column, the second the row. Ids are given as row, column even so.",
        "Rows first.",
        lambda p, _: p.get("form") == "offset",
    ),
}
# Rules get the ids of a case.
AXES_CASE_FLAGS: dict[str, Flag] = {
    "EqualIds": Flag(
        "All ids are equal, as those of text are: mrope gives the tables of the encoding inside.",
        "An encoding of text that is not plain. Any order of axes passes here: never test equal ids alone.",
        lambda ids: len(set(ids)) == 1,
    ),
    "UnequalIds": Flag(
        "The ids differ from one another.",
        "Rows and columns, or time and rows, swapped.",
        lambda ids: len(set(ids)) > 1,
    ),
}


def _leftover(p: Parameters, numbers: Record) -> bool:
    if p["variant"] != "mrope" or not p["interleaved"]:
        return False
    return any(pair % 3 and pair >= 3 * p["sections"][pair % 3] for pair in range(len(numbers["inv_freq"])))


# ---- groups ----


def settings() -> list[tuple[str, Parameters]]:
    """Comment and parameters of every group."""

    def mrope(inside: Parameters, *sections: int, interleaved: bool = False, leftover: str = "t") -> Parameters:
        named = {"variant": "mrope", "encoding": inside, "sections": list(sections)}
        return named | {"interleaved": interleaved, "leftover": leftover}

    def axial(form: str, head_dim: int = 12, base: float = 10_000.0) -> Parameters:
        return {"variant": "axial-2d", "head_dim": head_dim, "base": base, "form": form}

    small, yarn = encoding("rope", 12), encoding("yarn", 12, factor=4.0, original_length=64)
    resonance = {"variant": "resonance", "dialect": "after", "encoding": small}
    return [
        ("three axes, side by side", mrope(small, 1, 2, 3)),
        ("three axes in turn", mrope(small, 3, 1, 2, interleaved=True)),
        ("three axes in turn, the rest to a fourth id", mrope(small, 4, 1, 1, interleaved=True, leftover="fourth")),
        ("four axes on an NTK-aware base", mrope(encoding("ntk", 12, factor=4.0), 1, 2, 1, 2)),
        ("around YaRN", mrope(yarn, 1, 2, 3)),
        ("around Resonance, in turn", mrope(resonance, 3, 1, 2, interleaved=True)),
        ("Qwen2-VL", mrope(encoding("rope", 128, 1_000_000.0), 16, 24, 24)),
        ("Qwen3-VL", mrope(encoding("rope", 128, 5_000_000.0), 24, 20, 20, interleaved=True)),
        ("shared frequencies", axial("shared")),
        ("even-numbered and odd-numbered frequencies", axial("evenodd")),
        ("columns first", axial("offset")),
        ("a Pixtral head", axial("evenodd", 64)),
    ]


def axes_groups() -> list[Record]:
    """All groups of axes.json."""
    groups = []
    for i, (comment, p) in enumerate(settings(), start=1):
        exact = frequencies(p)
        numbers = {
            "axes": [axis_of(p, pair, len(exact)) for pair in range(len(exact))],
            "inv_freq": as_floats(exact),
            "attention_factor": as_floats(setting(p["encoding"]).attention_factor if "encoding" in p else mpf(1)),
        }
        name = f"axes-{i:03d}"
        made = group(name, comment, p, AXES_GROUP_FLAGS, **numbers)
        ids = _ids(p)
        cases = (("equal ids", (7,) * ids), ("ids that differ", (3, 41, 700, 65_537)[:ids]))
        made["cases"] = [_case(f"{name}-{words.split()[0]}", p, words, place) for words, place in cases]
        if len(exact) < 16 and comment not in TABLES_ALONE:
            layout = "interleaved" if p.get("form") == "offset" else "half"
            made["rotations"] = [_rotation(f"{name}-{layout}", p, layout)]
        groups.append(made)
    return groups


def _ids(p: Parameters) -> int:
    return 2 if p["variant"] == "axial-2d" else len(p["sections"]) + (p["leftover"] == "fourth")


def _case(name: str, p: Parameters, words: str, ids: Ids) -> Record:
    cos, sin = tables(p, ids)
    flags = flags_of(AXES_CASE_FLAGS, ids)
    return {
        "id": name,
        "comment": words,
        "flags": flags,
        "position": list(ids),
        "cos": as_floats(cos),
        "sin": as_floats(sin),
    }


def _rotation(name: str, p: Parameters, layout: str) -> Record:
    """Text, then the patches of an image of two columns; two axes: the class token and the patches, from 1."""
    ids = _ids(p)
    if ids == 2:
        places: list[Ids] = [(0, 0), (1, 1), (1, 2), (2, 1), (2, 2)]
    else:
        places = [(0,) * ids, *[(*(1, 1 + i // 2, 1 + i % 2), 1 + i)[:ids] for i in range(3)], (40,) * ids]
    turned = 2 * len(frequencies(p))
    q, k = sixty_fourths(1, ROWS, turned), sixty_fourths(1001, ROWS, turned)
    both = [tables(p, place) for place in places]
    turned_q, turned_k = (
        [rotated(row, *table, layout, False) for row, table in zip(rows, both, strict=True)] for rows in (q, k)
    )
    entry: Record = {
        "id": name,
        "comment": f"{layout} layout; text and patches" if ids > 2 else f"{layout} layout; class token and patches",
        "flags": [],
        "layout": layout,
        "suffix": False,
        "positions": [list(place) for place in places],
        "q": q,
        "k": k,
        "rotated_q": as_floats(turned_q),
        "rotated_k": as_floats(turned_k),
        "logits": as_floats([[fdot(a, b) for b in turned_k] for a in turned_q]),
    }
    entry["flags"] = flags_of(ROTATION_FLAGS, entry)
    return entry

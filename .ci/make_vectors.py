"""Write refrope's test vectors, or compare them with the files: `make_vectors.py [--check] [--only NAME ...]`.

plans (settings) ──► exact numbers (formulas) ──► groups with flags and sources ──► JSON, manifest, table in the README

Nothing here imports refrope: the files are what its code is tested against. With --check everything is made again in
memory and compared byte for byte; the exit status is 1, with the first difference, unless all are equal.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from mpmath import fdot, mpf
from vectors_axes import axes_groups
from vectors_biases import bias_groups
from vectors_explained import explained, markdown_table
from vectors_flags import case_flags, group_flags, rotation_flags
from vectors_formulas import DIGITS, Parameters, Setting, rotated, rounded, setting, sixty_fourths
from vectors_logits import K, Q
from vectors_maps import map_groups
from vectors_posgen import posgen_groups
from vectors_resonance import resonance_groups
from vectors_settings import PLANS, ROTATED_AT, Plan, positions
from vectors_sources import source

FORMAT = "refrope-vectors-1"
FOLDER = Path(__file__).resolve().parent.parent / "refrope" / "vectors"
ENCODINGS = PLANS | {"resonance": resonance_groups}
WHOLE = {"posgen": posgen_groups, "maps": map_groups, "biases": bias_groups, "axes": axes_groups}
NAMES = (*ENCODINGS, *WHOLE)
RECORDS = ("cases", "rotations", "scores")  # the parts of a group that have ids and flags of their own
TABLE_BEGINS, TABLE_ENDS = "<!-- flags: written by the generator -->\n", "<!-- end of flags -->\n"


# ---- groups ----


def floats(values: list[mpf]) -> list[float | None]:
    """Exact numbers as the nearest float64 values, None for infinity."""
    return [rounded(value) for value in values]


def group(plan: Plan, name: str) -> dict[str, Any]:
    """Everything about one setting."""
    parameters, exact = plan.parameters, setting(plan.parameters)
    result: dict[str, Any] = {
        "id": name,
        "comment": plan.comment,
        "parameters": parameters,
        "source": source(parameters),
        "flags": group_flags(parameters, exact),
        "stretch": None if exact.stretch is None else floats(exact.stretch),
        "inv_freq": floats(exact.inv_freq),
        "wavelengths": floats(exact.wavelengths),
    }
    if exact.periods is not None:
        result["periods"] = exact.periods
    result["attention_factor"] = rounded(exact.attention_factor)
    result["softmax_factor"] = rounded(exact.softmax_factor)
    roles = ("q", "k") if exact.inner["variant"] == "xpos" else (None,)
    result["cases"] = [case(exact, name, position, role) for position in positions(parameters) for role in roles]
    result["rotations"] = rotations(plan, exact, name)
    return result


def case(exact: Setting, name: str, position: int, role: str | None) -> dict[str, Any]:
    """One position's cos and sin."""
    cos, sin = exact.table(position, role)
    where = {"position": position} if role is None else {"position": position, "role": role}
    place = f"minus{-position}" if position < 0 else str(position)
    return {
        "id": f"{name}-{place}" if role is None else f"{name}-{place}-{role}",
        "comment": _about(position, exact),
        "flags": case_flags(position, exact),
        **where,
        "cos": floats(cos),
        "sin": floats(sin),
    }


def _about(position: int, exact: Setting) -> str:
    """What is special about a position, in words."""
    length = exact.inner.get("original_length", exact.inner.get("train_length"))
    words = {-1: "before the start", 0: "start", 1: "second token", 2**31: "2^31", 2**63 - 1: "2^63 - 1"}
    words |= {2**20 - 1: "2^20 - 1", 2**24 + 1: "2^24 + 1", 2**53 + 1: "2^53 + 1", 131_071: "2^17 - 1"}
    if length is not None and abs(position - length) <= 1:
        return {-1: "L - 1", 0: "L", 1: "L + 1"}[position - length]
    return words.get(position, "")


def rotations(plan: Plan, exact: Setting, name: str) -> list[dict[str, Any]]:
    """Rotated q and k with their logits, in both layouts."""
    if not plan.rotate:
        return []
    tables = {role: [exact.table(position, role) for position in ROTATED_AT] for role in ("q", "k")}
    made = []
    for suffix in (False, True) if plan.suffix else (False,):
        for layout in ("half", "interleaved"):
            start = 1 + len(made)
            width, turned = exact.inner["head_dim"], 2 * len(exact.wavelengths)
            q = sixty_fourths(start, len(ROTATED_AT), width)
            k = sixty_fourths(start + 1000, len(ROTATED_AT), width)
            turned_q = [rotated(row, *table, layout, suffix) for row, table in zip(q, tables["q"], strict=True)]
            turned_k = [rotated(row, *table, layout, suffix) for row, table in zip(k, tables["k"], strict=True)]
            entry = {
                "id": f"{name}-{layout}{'-suffix' if suffix else ''}",
                "comment": f"{layout} layout, the {'last' if suffix else 'first'} {turned} features",
                "flags": [],
                "layout": layout,
                "suffix": suffix,
                "positions": list(ROTATED_AT),
                "q": q,
                "k": k,
                "rotated_q": [floats(row) for row in turned_q],
                "rotated_k": [floats(row) for row in turned_k],
                "logits": [[rounded(fdot(a, b)) for b in turned_k] for a in turned_q],
            }
            entry["flags"] = rotation_flags(entry)
            made.append(entry)
    return made


def document(name: str) -> dict[str, Any]:
    """The whole of one file."""
    if name in WHOLE:
        groups = WHOLE[name]()
    else:
        groups = [group(plan, f"{name}-{i:03d}") for i, plan in enumerate(ENCODINGS[name](), start=1)]
    parts = [part for g in groups for part in (g, *(record for key in RECORDS for record in g.get(key, ())))]
    used = {flag for part in parts for flag in part["flags"]}
    inputs = {"q": Q, "k": K} if any(g.get("scores") for g in groups) else {}
    return {
        "format": FORMAT,
        "variant": name,
        "generator": ".ci/make_vectors.py",
        "digits": DIGITS,
        **inputs,
        "flags": explained(used),
        "groups": groups,
    }


# ---- files ----


def as_text(whole: dict[str, Any]) -> str:
    """JSON with one line for every case, rotation, score and other field of a group, so that differences read."""
    lines = ["{"]
    for key in (key for key in whole if key not in ("flags", "groups")):
        lines.append(f" {_json(key)}: {_json(whole[key])},")
    flags = [f"  {_json(name)}: {_json(words)}" for name, words in whole["flags"].items()]
    lines += [' "flags": {', ",\n".join(flags), " },"]
    lines += [' "groups": [', ",\n".join(_group_text(g) for g in whole["groups"]), " ]", "}"]
    return "\n".join(lines) + "\n"


def _group_text(one: dict[str, Any]) -> str:
    fields = []
    for key, value in one.items():
        if key in RECORDS and value:
            fields.append(f"   {_json(key)}: [\n" + ",\n".join(f"    {_json(part)}" for part in value) + "\n   ]")
        else:
            fields.append(f"   {_json(key)}: {_json(value)}")
    return "  {\n" + ",\n".join(fields) + "\n  }"


def _json(value: Any) -> str:
    """One line; Python writes floats with the fewest digits that give the same float64 back."""
    return json.dumps(value, allow_nan=False, ensure_ascii=True)


def manifest(files: dict[str, bytes], documents: dict[str, dict[str, Any]]) -> bytes:
    """Size and SHA-256 of every file, and what it holds."""
    entries = {}
    for name, data in files.items():
        entry: dict[str, Any] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        groups: list[Parameters] = documents.get(name.removesuffix(".json"), {}).get("groups", [])
        if groups:
            entry["groups"] = len(groups)
            entry |= {key: sum(len(g[key]) for g in groups) for key in RECORDS if key in groups[0]}
        entries[name] = entry
    return (json.dumps({"format": FORMAT, "files": entries}, indent=1) + "\n").encode()


def readme(old: str) -> bytes:
    """README.md with its table of flags made anew."""
    before, rest = old.split(TABLE_BEGINS)
    _, after = rest.split(TABLE_ENDS)
    return f"{before}{TABLE_BEGINS}{markdown_table()}\n{TABLE_ENDS}{after}".encode()


def first_difference(name: str, made: bytes, found: bytes) -> str:
    """Which line of a file differs first, and from where on."""
    new, old = made.decode().split("\n"), found.decode(errors="replace").split("\n")
    for i, (a, b) in enumerate(zip(new, old, strict=False), start=1):
        if a != b:
            column = next((c for c, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            start = max(column - 40, 0)
            return f"{name}:{i}:{column + 1}: file has {b[start : column + 40]!r}, expected {a[start : column + 40]!r}"
    return f"{name}: file has {len(old)} lines, expected {len(new)}"


def main() -> int:
    """Make the vectors; write them or compare them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 unless the files are as made anew")
    parser.add_argument("--only", nargs="+", choices=NAMES, help="these alone, without manifest and README")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the files are (default: the package's)")
    arguments = parser.parse_args()

    began = time.perf_counter()
    documents = {name: document(name) for name in arguments.only or NAMES}
    files = {f"{name}.json": as_text(whole).encode() for name, whole in documents.items()}
    if not arguments.only:
        files["schema.json"] = (arguments.folder / "schema.json").read_bytes()
        files["manifest.json"] = manifest(files, documents)
        files["README.md"] = readme((arguments.folder / "README.md").read_text(encoding="utf-8"))

    status = 0
    for name, data in files.items():
        path = arguments.folder / name
        if not arguments.check:
            path.write_bytes(data)
        elif not path.exists() or path.read_bytes() != data:
            found = path.read_bytes() if path.exists() else b""
            print(first_difference(name, data, found))
            status = 1
    size = sum(map(len, files.values())) / 1e6
    done = "differ" if status else "equal" if arguments.check else "written"
    print(f"{len(files)} files, {size:.1f} MB: {done} ({time.perf_counter() - began:.0f} s)")
    return status


if __name__ == "__main__":
    sys.exit(main())

"""``refrope inspect`` of encodings of several axes: which of a token's ids turns which pair, and how fast."""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

from refrope.encodings.axes import Axial2D, MRoPE
from refrope.encodings.names import flag
from refrope.encodings.rope import RoPE
from refrope.report import format_table, parameters

HEAD_DIM = 128  # Qwen2-VL's and Qwen3-VL's, whose sections are for 64 pairs
NAMES_HERE = ("mrope", "mrope-interleaved", "axial-shared", "axial-evenodd", "axial-offset")
HELP = f"""\
{", ".join(NAMES_HERE)}
are encodings of several axes, shown by pairs and axes: M-RoPE as in Qwen2-VL and Qwen3-VL (time, height, width), and
the forms of 2-D positions in Qwen2-VL's vision encoder, in Pixtral and in Llama 4. Only --head-dim is for them."""
_LETTERS = {"mrope": ("t", "h", "w"), "axial": ("row", "column")}


def build(name: str, head_dim: int) -> MRoPE | Axial2D:
    """The encoding that a name stands for; M-RoPE's sections are the published ones, scaled to the number of pairs.

    Raises
    ------
    ValueError
        A head_dim for which these sections, or two axes, are no whole numbers of pairs.
    """
    if name.startswith("axial-"):
        return Axial2D(head_dim, form=name.removeprefix("axial-"))
    interleaved = name == "mrope-interleaved"
    sections = (24, 20, 20) if interleaved else (16, 24, 24)
    if head_dim < 2 or any(head_dim * s % HEAD_DIM for s in sections):
        raise ValueError(f"inspect: head_dim is {head_dim}, expected one that has {sections} of 64 pairs for the axes")
    return MRoPE(RoPE(head_dim), tuple(head_dim * s // HEAD_DIM for s in sections), interleaved)


def run(name: str, values: dict[str, Any], options: argparse.Namespace) -> int:
    """Show one of `NAMES_HERE`."""
    for key in values:
        if key != "head_dim":
            raise ValueError(f"inspect: {flag(key)} does not go with {name}, which takes --head-dim")
    for key in ("train_length", "test_length", "plot"):
        if getattr(options, key) is not None:
            raise ValueError(f"inspect: {flag(key)} does not go with {name}, which takes --head-dim and --json")
    encoding = build(name, values.get("head_dim", HEAD_DIM))
    print(json.dumps(as_json(name, encoding), indent=1) if options.json else text(name, encoding))
    return 0


def as_json(name: str, encoding: MRoPE | Axial2D) -> dict[str, Any]:
    """Parameters, and axis, frequency and wavelength of every pair."""
    letters = _LETTERS[name.partition("-")[0]]
    rows = zip(encoding.axes.tolist(), encoding.inv_freq.tolist(), strict=True)
    return {
        "encoding": name,
        "parameters": parameters(encoding),
        "pairs": [
            {"pair": pair, "axis": axis, "id": letters[axis], "inv_freq": inv_freq, "wavelength": _turn(inv_freq)}
            for pair, (axis, inv_freq) in enumerate(rows)
        ],
    }


def text(name: str, encoding: MRoPE | Axial2D) -> str:
    """One line a pair, and what is special about the form."""
    said = as_json(name, encoding)
    rows = [("pair", "follows", "inv_freq rad/step", "wavelength")]
    rows += [
        (str(pair["pair"]), pair["id"], f"{pair['inv_freq']:.9g}", f"{pair['wavelength']:.3f}")
        for pair in said["pairs"]
    ]
    if isinstance(encoding, MRoPE):
        remark = "Where all ids of a token are equal, as those of text are, this is the encoding inside, bit for bit."
    else:
        remark = f"Published with layout {encoding.layout!r} and ids from {encoding.first_id} on."
    return f"{encoding!r}\n\n{format_table(rows, left=0)}\n\n{remark}"


def _turn(inv_freq: float) -> float:
    """Steps on the axis for a full turn."""
    return 2 * math.pi / inv_freq

"""The page as one text: markup, style and script of this folder, and the view that it starts with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from refrope import __version__

FOLDER = Path(__file__).parent
# In an order in which each module imports only those before it.
MODULES = (
    *("exact", "rope", "ramps", "variants", "encodings", "analysis", "bfloat16"),
    *("state", "model", "words", "svg", "panels", "circle", "descriptions", "table", "controls", "main"),
)
STYLES = ("page", "controls", "drawings")
_PAIR = 8  # looked at first: with the usual numbers the last that is pre-critical
# What may be chosen: the least, greatest and usual numbers, the variants and their dialects, and examples.
CATALOGUE: dict[str, Any] = json.loads((FOLDER / "catalogue.json").read_text(encoding="utf-8"))


def page_text(start: Mapping[str, Any]) -> str:
    """The whole page, which needs nothing else: no network, no other file.

    Parameters
    ----------
    start : mapping
        What the page shows until an address says otherwise: variant, resonance, and head_dim, base, train_length,
        test_length and factor (None: test length / train length).

    Returns
    -------
    str
        HTML. The same bytes for the same start and version.
    """
    view = dict(sorted({**start, "dialect": None, "positions": "exact", "pair": _PAIR}.items()))
    data = json.dumps({"catalogue": CATALOGUE, "start": view}, ensure_ascii=False, allow_nan=False)
    parts = {
        "version": __version__,
        "style": "\n".join(_texts("style", "css", STYLES)),
        "data": data.replace("<", "\\u003c"),  # no text in it may end the element
        "script": script_text(),
    }
    markup = (FOLDER / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda slot: parts[slot[1]], markup)


def script_text() -> str:
    """All modules as one: their names are distinct, so that imports and the word export can go."""
    joined = re.sub(r"^import [^;]*;\n", "", "\n".join(_texts("script", "mjs", MODULES)), flags=re.MULTILINE)
    return re.sub(r"^export ", "", joined, flags=re.MULTILINE)


def _texts(folder: str, suffix: str, names: Iterable[str]) -> list[str]:
    return [(FOLDER / folder / f"{name}.{suffix}").read_text(encoding="utf-8") for name in names]

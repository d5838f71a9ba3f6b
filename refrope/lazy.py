"""Names of a package that are imported when they are first asked for, so that importing the package itself is quick."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def on_demand(package: str, names: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The functions ``__getattr__`` and ``__dir__`` of a package (PEP 562).

    Parameters
    ----------
    package : str
        Its ``__name__``.
    names : mapping from module to names
        For each module, relative to the package, the names that the package takes from it, with spaces between. The
        module is a name of the package as well. Type checkers do not read it: the package imports the same for them.

    Returns
    -------
    (getattr, dir)
        The first raises AttributeError for any other name.
    """
    places = {name: module for module, taken in names.items() for name in taken.split()}

    def get(name: str) -> Any:
        if name in places:
            value = getattr(importlib.import_module(f"{package}.{places[name]}"), name)
        elif name in names:
            value = importlib.import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)  # from now on found without this function
        return value

    def all_names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *places, *(name for name in names if "." not in name)})

    return get, all_names

"""Find what users name on the command line: ``package.module:name`` or ``path/to/file.py:name``."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from refrope.errors import in_a_line


def find(command: str, target: str) -> Any:
    """The object that a target names.

    Modules are looked for in the current directory, too, as `python -m` does: it is put on `sys.path`.

    Parameters
    ----------
    command : str
        What errors begin with.
    target : str
        ``package.module:name`` or ``path/to/file.py:name``; a name may have dots, as in ``Class.method``.

    Raises
    ------
    ValueError
        No such module or name, or a module that raises when it is imported.
    """
    place, name = _parts(command, target)
    found: Any = module_of(command, target)
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{command}: {place} has no {name}")
        found = getattr(found, part)
    return found


def module_of(command: str, target: str) -> ModuleType:
    """The module in which `find` looks; it is run once, whatever the number of calls.

    Raises
    ------
    ValueError
        No such module, or it raises when it is imported.
    """
    place, _ = _parts(command, target)
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    try:
        return _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except (Exception, SystemExit) as error:  # whatever an import raises is the answer
        raise ValueError(f"{command}: {place} cannot be imported: {in_a_line(error)}") from error


def _parts(command: str, target: str) -> tuple[str, str]:
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise ValueError(f"{command}: target is {target!r}, expected MODULE:NAME or FILE.py:NAME")
    return place, name


def _from_file(path: Path) -> ModuleType:
    name = f"{path.stem} in {path.resolve()}"  # no module's name: a file random.py does not take random's place
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module

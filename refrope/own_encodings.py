"""Encodings that users bring: ``module:name`` or ``path/to/file.py:name`` stands in the place of a method's name.

What the name stands for is one of

    a class        of `RotaryEncoding` or `PositionMap`: an instance is made of it
    a function     returning an instance of one of these
    an instance    used as it is

Classes and functions are called with those of these arguments that they name:

    head_dim                       features of a head of the model
    train_length, test_length      tokens that the model reads in training and in the test, the front token counted
    original_length                train_length again, as YaRN and its kind call it
    factor                         test_length / train_length
    encoding                       RoPE(head_dim), for maps and wrappers

once for the training, with the longest of all test lengths, and once for each test, with its own. Training and test
then ask for the form in force, ``for_length(n)``, n being the tokens that the model reads: that is the place for an
encoding that is to be another one in training than in the test.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.encodings import RoPE, RotaryEncoding
from refrope.encodings.position_map import PositionMap
from refrope.errors import describe, in_a_line
from refrope.importing import find, module_of
from refrope.nn.attending import layers_of, rotation_of

KINDS = "a RotaryEncoding or PositionMap"
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_SEVERAL = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def is_own(name: str) -> bool:
    """True for a name that says where to find an encoding."""
    return ":" in name


def own_label(name: str) -> str:
    """Short enough for tables and figures: the name without the directories of its file."""
    place, _, found = name.rpartition(":")
    return f"{Path(place).name}:{found}"


def own_encoding(
    name: str, head_dim: int, train: int, test: int, *, who: str = "posgen"
) -> RotaryEncoding | PositionMap:
    """Make the encoding that a name stands for.

    Parameters
    ----------
    name : str
        ``module:name`` or ``path/to/file.py:name``.
    head_dim : int
    train, test : int
        Tokens that a model reads.
    who : str
        The command that asks: what errors begin with.

    Raises
    ------
    ValueError
        Nothing of that name, not what may stand there, arguments that nobody gives, another head_dim, or whatever went
        wrong inside of it.
    """
    found = find(who, name)
    if isinstance(found, (RotaryEncoding, PositionMap)):
        made = found
    else:
        if not callable(found) or (isinstance(found, type) and not issubclass(found, (RotaryEncoding, PositionMap))):
            raise ValueError(f"{who}: {name} is {describe(found)}, expected {KINDS}, or a function that returns one")
        offered = {
            **{"head_dim": head_dim, "train_length": train, "test_length": test},
            **{"original_length": train, "factor": test / train, "encoding": RoPE(head_dim)},
        }
        given = _given(who, name, found, offered)
        try:
            made = found(**given)
        except Exception as error:  # whatever it raises is the answer
            said = ", ".join(f"{key}={value!r}" for key, value in given.items())
            raise ValueError(f"{who}: {name}({said}) raises {in_a_line(error)}") from error
        if not isinstance(made, (RotaryEncoding, PositionMap)):
            raise ValueError(f"{who}: {name} returns {describe(made)}, expected {KINDS}")
    if made.head_dim != head_dim:
        raise ValueError(f"{who}: {name} has head_dim {made.head_dim!r}, expected {head_dim}, the model's")
    return made


def _given(who: str, name: str, function: Any, offered: dict[str, Any]) -> dict[str, Any]:
    """Those of the offered arguments that a class or function names."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{who}: {name} does not say what its arguments are: {in_a_line(error)}") from error
    named = [p.name for p in parameters if p.kind in _BY_NAME and p.name in offered]
    for parameter in parameters:
        if parameter.name not in named and parameter.default is parameter.empty and parameter.kind not in _SEVERAL:
            raise ValueError(f"{who}: {name} needs {parameter.name}, expected arguments among {', '.join(offered)}")
    return {key: offered[key] for key in named}


def check_own(
    name: str,
    encoding: RotaryEncoding | PositionMap | None,
    length: int,
    positions: npt.NDArray[Any] | None = None,
    *,
    who: str = "posgen",
) -> None:
    """Make the tables of `length` tokens as training and tests do, and look at them.

    Parameters
    ----------
    positions : (..., length) ints, optional
        Those of the tokens, where they are not 0, 1, 2, ...
    who : str
        What errors begin with.

    Raises
    ------
    ValueError
        It raises, or gives something that a model cannot use.
    """
    assert encoding is not None, "an encoding of one's own always turns"
    try:
        rotation: Any = rotation_of(encoding, length, np.float32, positions)
        tables = rotation
        if isinstance(encoding, PositionMap):
            passes: list[Any] = [one for layer in layers_of(rotation) for one in layer or ()]
            tables = [table for one in passes for pair in (one.q_tables, one.k_tables) for table in pair or ()]
    except Exception as error:  # whatever it raises is the answer
        raise ValueError(f"{who}: {name}: tables of {length} tokens: {in_a_line(error)}") from error
    shape = (length,) if positions is None else positions.shape
    _check_tables(who, name, tables, shape, encoding.head_dim)


def _check_tables(who: str, name: str, tables: Sequence[Any], shape: tuple[int, ...], head_dim: int) -> None:
    wanted = f"expected float32({', '.join(map(str, shape))}, r/2) with r <= {head_dim}"
    if not isinstance(tables, (tuple, list)):
        raise ValueError(f"{who}: {name} has tables {describe(tables)}, expected cos and sin")
    for table in tables:
        fits = isinstance(table, np.ndarray) and table.dtype == np.float32 and table.shape[:-1] == shape
        if not fits or 2 * table.shape[-1] > head_dim:
            raise ValueError(f"{who}: {name} has a table {describe(table)}, {wanted}")
        if not np.isfinite(table).all():
            raise ValueError(f"{who}: {name} has a table with NaN or infinity, expected finite numbers")


def source_digest(name: str, who: str = "posgen") -> str | None:
    """SHA-256 of the file that a name's module was read from, for results to tell one version from the next."""
    path = getattr(module_of(who, name), "__file__", None)
    return None if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()

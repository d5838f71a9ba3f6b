"""The words of error messages: function, argument, what came, what was wanted."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

_LONGEST = 200  # characters of a value in a message
_LAST_POSITION = 2**63 - 1  # positions are int64


def describe(value: Any) -> str:
    """An array as `float32(2, 3)`, anything else as its repr, of which a long one is cut."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({type(value).__name__}, {len(text):,} characters)"


def unknown_name(function: str, argument: str, value: object, known: Iterable[str]) -> ValueError:
    """The error for a name that nobody knows, with the nearest one that is known."""
    names = list(known)
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ValueError(f"{function}: unknown {argument} {value!r}; {hint}known: {', '.join(names)}")


def check_name(function: str, argument: str, value: object, known: Iterable[str]) -> None:
    """Raise unless `value` is one of the `known` names."""
    names = list(known)
    if value not in names:
        raise unknown_name(function, argument, value, names)


def check_integer(function: str, argument: str, value: object, least: int, most: int | None = None) -> int:
    """`value` as an int, or an error unless it is a whole number in [least, most]."""
    fits = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not fits or value < least or (most is not None and value > most):  # type: ignore[operator]
        wanted = f"an integer >= {least}" if most is None else f"an integer in [{least}, {most}]"
        raise ValueError(f"{function}: {argument} is {value!r}, expected {wanted}")
    return int(value)  # type: ignore[call-overload, no-any-return]


def check_length(function: str, argument: str, value: object, least: int = 1) -> int:
    """`value` as a number of tokens, or an error unless it is a whole number >= `least` that positions can count."""
    length = check_integer(function, argument, value, least)
    if length > _LAST_POSITION:
        raise ValueError(f"{function}: {argument} is beyond 2^63 - 1, expected what int64 positions can count")
    return length


def check_number(
    function: str, argument: str, value: object, wanted: str, least: float, *, above: bool = False
) -> float:
    """`value` as a float, or an error unless it is finite and >= `least` (> `least` with `above`)."""
    fits = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if fits:
        try:
            number = float(value)  # type: ignore[arg-type]
        except OverflowError:
            said = "an integer too large for a float"
            raise ValueError(f"{function}: {argument} is {said}, expected {wanted}") from None
        fits = math.isfinite(number) and (number > least if above else number >= least)
    if not fits:
        raise ValueError(f"{function}: {argument} is {value!r}, expected {wanted}")
    return number


def check_numbers(
    function: str, argument: str, values: object, count: int, wanted: str, least: float, *, above: bool = False
) -> tuple[float, ...]:
    """`values` as a tuple of floats, or an error unless it is a list, tuple or array of `count` fitting numbers."""
    listed = values.tolist() if isinstance(values, np.ndarray) else values
    if not isinstance(listed, (list, tuple)):
        raise ValueError(f"{function}: {argument} is {describe(values)}, expected {count} numbers")
    if len(listed) != count:
        raise ValueError(f"{function}: {argument} has {len(listed)} numbers, expected {count}")
    return tuple(
        check_number(function, f"{argument}[{i}]", value, wanted, least, above=above) for i, value in enumerate(listed)
    )


def in_a_line(error: BaseException) -> str:
    """An exception's class and the first line of what it says, whatever its text is."""
    try:
        text = str(error).strip()
    except Exception:
        text = ""
    line = text.splitlines()[0][:200].rstrip(".") if text else ""
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def comma_list(text: str) -> list[str]:
    """The parts of "a,b,c", as options of the command line give them."""
    return [part.strip() for part in text.split(",") if part.strip()]

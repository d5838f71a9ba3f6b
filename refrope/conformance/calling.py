"""Call somebody else's function safely: any array library, a time limit, and an eye on its manners."""

from __future__ import annotations

import contextlib
import inspect
import io
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.errors import describe, in_a_line

ARRAYS = ("numpy", "torch", "jax", "mlx")
DTYPES = ("float32", "float64", "float16", "bfloat16")
_MODULES = {"numpy": "numpy", "torch": "torch", "jax": "jax.numpy", "mlx": "mlx.core"}


class CallError(Exception):
    """The function did not give arrays of the wanted kind; `kind` is one word, the text says what came."""

    def __init__(self, kind: str, said: str) -> None:
        super().__init__(said)
        self.kind = kind


class Caller:
    """Calls `function` and remembers what it did wrong, each kind of wrong once.

    Parameters
    ----------
    function : callable
    arrays : one of `ARRAYS`, or "auto"
        What it takes. "auto" tries NumPy, then each of the others that is already imported.
    dtype : one of `DTYPES`, of the floats that it gets
    time_limit : float, seconds for one call
        A call that takes longer is left behind in its thread, and the function is not called again.

    Attributes
    ----------
    problems : dict of str to str
        What was seen, by kind: "hangs", "mutates", "prints", "dtype".
    calls : int
    """

    def __init__(self, function: Callable[..., Any], *, arrays: str, dtype: str, time_limit: float) -> None:
        self.function: Callable[..., Any] = function
        self.dtype: str = dtype
        self.time_limit: float = time_limit
        self.arrays: list[str] = [arrays] if arrays != "auto" else [n for n in ARRAYS if _MODULES[n] in sys.modules]
        if dtype == "bfloat16":
            self.arrays = [name for name in self.arrays if name != "numpy"]
        if not self.arrays:
            raise ValueError(f"check: arrays of {dtype} need torch, jax or mlx, and none of them is imported")
        self.problems: dict[str, str] = {}
        self.calls: int = 0

    def __call__(self, *arguments: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """The result, or the parts of a tuple or list, as NumPy arrays; bfloat16 becomes float32.

        Raises
        ------
        CallError
            It raised, hung, or returned something else.
        """
        failure: CallError | None = None
        for arrays in self.arrays:
            try:
                result = self._call(arrays, arguments)
            except CallError as error:
                failure = failure or error
                if error.kind != "raises":
                    break
                continue
            self.arrays = [arrays]  # what worked once is what it takes
            return result
        assert failure is not None
        raise failure

    def _call(self, arrays: str, arguments: tuple[npt.NDArray[Any], ...]) -> list[npt.NDArray[Any]]:
        if "hangs" in self.problems:
            raise CallError("hangs", self.problems["hangs"])
        self.calls += 1
        outcome: list[Any] = []
        said = io.StringIO()

        def work() -> None:
            try:
                outcome.append(self._work(arrays, arguments))
            except BaseException as error:  # whatever it raises, SystemExit too, is the answer
                outcome.append(error)

        thread = threading.Thread(target=work, daemon=True)
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            thread.start()
            thread.join(self.time_limit)
        if not outcome:
            self.problems["hangs"] = f"a call took more than {self.time_limit:g} s; it was not called again"
            raise CallError("hangs", self.problems["hangs"])
        if said.closed:
            self.problems.setdefault("prints", "it closes standard output")
        elif text := said.getvalue().strip():
            self.problems.setdefault("prints", f"it prints, for example {text.splitlines()[0][:80]!r}")
        if isinstance(outcome[0], CallError):
            raise outcome[0]
        if isinstance(outcome[0], BaseException):
            raise CallError("raises", in_a_line(outcome[0]))
        result: list[npt.NDArray[Any]] = outcome[0]
        return result

    def _work(self, arrays: str, arguments: tuple[npt.NDArray[Any], ...]) -> list[npt.NDArray[Any]]:
        """One call with everything around it: lazy libraries compute only when they are read, in the same thread."""
        given = [_to_library(arrays, argument, self.dtype) for argument in arguments]
        before = [as_numpy(argument).copy() for argument in given]
        value = self.function(*given)
        if isinstance(value, list) and value and all(isinstance(part, (int, float, np.number)) for part in value):
            value = np.array(value)  # plain numbers, as inv_freq is sometimes kept
        elif isinstance(value, list) and len(value) not in (1, 2, 3):
            raise CallError("not-an-array", f"it returned a list of {len(value)} things, expected an array of floats")
        parts = [as_numpy(part) for part in (value if isinstance(value, (tuple, list)) else [value])]
        if len(given) == 2 and len(parts) == 1 and (kind := _dtype_name(value, parts[0])) != self.dtype:
            self.problems.setdefault("dtype", f"it returns {kind} for x of {self.dtype}")
        for number, (argument, was) in enumerate(zip(given, before, strict=True)):
            if not np.array_equal(as_numpy(argument), was, equal_nan=True):
                self.problems.setdefault("mutates", f"it changes its {('first', 'second')[number]} argument in place")
        return parts


def _dtype_name(value: Any, array: npt.NDArray[Any]) -> str:
    """The type of any library's numbers, such as "bfloat16"; where it does not say, that of `array`, made from it."""
    return str(getattr(value, "dtype", array.dtype)).rpartition(".")[2]


def _to_library(arrays: str, values: npt.NDArray[Any], dtype: str) -> Any:
    """`values` as an array of a library: integers stay as they are, floats become `dtype`."""
    is_float = values.dtype.kind == "f"
    if arrays == "numpy":
        return values.astype(dtype) if is_float else values.copy()
    module = sys.modules.get(_MODULES[arrays]) or __import__(_MODULES[arrays], fromlist=["_"])
    if arrays == "torch":
        tensor = module.from_numpy(values.copy())
        return tensor.to(getattr(module, dtype)) if is_float else tensor
    if is_float:
        return module.array(values, dtype=getattr(module, dtype))
    return module.array(values)


def as_numpy(value: Any) -> npt.NDArray[Any]:
    """Any library's array as NumPy's: float16 and wider as they are, bfloat16 as float32.

    Raises
    ------
    CallError
        Not an array of numbers.
    """
    if inspect.iscoroutine(value):
        value.close()  # nobody will wait for it
    if hasattr(value, "detach"):
        value = value.detach().cpu()  # torch: without gradients, from wherever it is
    array: npt.NDArray[Any] | None = None
    for convert in (np.asarray, _widened, _through_dlpack):
        try:
            array = np.asarray(convert(value))
        except Exception:  # the next way may do
            continue
        if array.dtype.kind in "fcui":
            return array
        if array.dtype.name == "bfloat16":  # as ml_dtypes registers it for jax
            return array.astype(np.float32)
    is_array = array is not None and (array.dtype.kind not in "OVUS" or isinstance(value, np.ndarray))
    shown = describe(array) if is_array else type(value).__name__
    raise CallError("not-an-array", f"it returned {shown}, expected an array of floats")


def _widened(value: Any) -> Any:
    """A tensor of bfloat16, which NumPy has not, as float32."""
    if hasattr(value, "float"):
        return value.float()
    return value.astype(sys.modules["mlx.core"].float32)


def _through_dlpack(value: Any) -> npt.NDArray[Any]:
    return np.from_dlpack(value)

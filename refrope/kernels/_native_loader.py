"""Find the compiled module, once, and say in words why it is missing where it is."""

from __future__ import annotations

from types import ModuleType
from typing import Any

_native: ModuleType | None
_reason: str
try:
    from refrope.kernels import _native  # type: ignore[attr-defined, no-redef]

    _reason = ""
except ImportError as error:
    _native = None
    _reason = str(error)

REMEDY = (
    "install a C compiler (Debian: apt-get install gcc python3-dev; macOS: xcode-select --install) "
    "and reinstall refrope with REFROPE_REQUIRE_EXT=1 to see why a build fails"
)


def available() -> bool:
    """True where the C kernels were built and could be loaded."""
    return _native is not None


def missing_reason() -> str:
    """Why the C kernels are not there; empty where they are."""
    return _reason


def require() -> None:
    """Raise RuntimeError, with the remedy, where the C kernels are not available."""
    native()


def native() -> tuple[Any, Any]:
    """The pair (ffi, lib) of the compiled module.

    Raises
    ------
    RuntimeError
        The C kernels are not built or cannot be loaded; the message has the remedy.
    """
    if _native is None:
        raise RuntimeError(f"refrope.kernels: the C kernels are not available ({_reason}); {REMEDY}")
    return _native.ffi, _native.lib

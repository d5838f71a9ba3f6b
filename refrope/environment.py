"""What a result was computed with: versions, machine, kernels."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from refrope import __version__, kernels


def environment() -> dict[str, Any]:
    """Versions and machine, as every file of results holds them."""
    return {
        "versions": {
            "refrope": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "cffi": metadata.version("cffi"),
            "blas": _blas(),
        },
        "machine": {
            "system": platform.system(),
            "processor": platform.machine(),
            "cpu": _cpu(),
            "kernels": kernels.build_info(),
        },
    }


def _cpu() -> str:
    """The processor's name, as far as the system tells."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _blas() -> str:
    """Name and version of the BLAS that NumPy was built with."""
    try:
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    except (KeyError, TypeError):  # NumPy before 1.25
        return "unknown"
    return f"{blas['name']} {blas['version']}"

"""Ends a run with the worst error of each comparison, and refuses to run without the C kernels."""

import platform

import numpy as np
import pytest
import torch

from peers.comparison import WORST
from refrope import kernels


@pytest.fixture(scope="session", autouse=True)
def _both_backends():
    kernels.require()


def pytest_terminal_summary(terminalreporter):
    """The table that README.md holds."""
    try:
        import transformers

        peer = f"transformers {transformers.__version__}"
    except ImportError:
        peer = "no transformers"
    simd = kernels.build_info()["simd"] if kernels.available() else "no C kernels"
    say = terminalreporter.write_line
    say(f"torch {torch.__version__}, {peer}, NumPy {np.__version__}, Python {platform.python_version()}, {simd}")
    say("| Test | Forward | Gradient |")
    say("|---|---|---|")
    for test in dict.fromkeys(test for test, _ in WORST):
        errors = (WORST.get((test, kind)) for kind in ("forward", "gradient"))
        cells = ["" if error is None else f"{error:.1e}" for error in errors]
        say(f"| {test.replace('::', ' ')} | {cells[0]} | {cells[1]} |")

"""Every encoding against the vectors, and the loader against files that are not what they should be."""

import ast
import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mpmath
import numpy as np
import pytest

import refrope as rr
from refrope import vectors
from refrope.vectors import VectorError

ROOT = Path(__file__).parent.parent
GENERATOR = ROOT / ".ci"
ENCODINGS = [name for name in vectors.NAMES if name != "posgen"]

EPS = 2.0**-53  # half a unit in the last place, relative
# refrope.tables: the roundings of position, inv_freq and their product, then cos itself.
ANGLE_ROUNDINGS, COS_ERROR = 4, 2.0**-50
# A phase of Resonance is in [0, 2 pi): three roundings of it (the division, 2 pi, the product) and cos itself.
PHASE_ERROR = 3 * 2 * math.pi * EPS + 2.0**-52
# zeta^x in float64: the rounding of zeta counts x times, that of x by |ln zeta^x|, and pow itself; 8 covers the rest.
XPOS_ROUNDINGS = 8
# FoPE's float64 product sums up to `pairs` products; each sum or product may round once.
ATTENTION_ULPS = 1


def groups(name):
    """The groups of one file."""
    return vectors.load(name)["groups"]


def numbers(values):
    """A JSON list with null for infinity as float64."""
    return np.array([[math.inf if v is None else v for v in values]], dtype=np.float64)[0]


@pytest.fixture(scope="module", params=ENCODINGS)
def name(request):
    """Every encoding's file."""
    return request.param


def test_frequencies_stretches_and_wavelengths_are_equal_bit_for_bit(name):
    for group in groups(name):
        encoding = vectors.encoding(group["parameters"])
        assert encoding.inv_freq.tolist() == group["inv_freq"], group["id"]
        assert encoding.wavelengths.tolist() == numbers(group["wavelengths"]).tolist(), group["id"]
        if group["stretch"] is None:
            assert encoding.stretch is None, group["id"]
        else:
            assert encoding.stretch.tolist() == numbers(group["stretch"]).tolist(), group["id"]

"""What all tests share: Hypothesis profiles, the backends that are built here, and what ``refrope lm`` reads."""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from lm_standins import language_model

from refrope import kernels

# For one set of parameters of many: pytest.param(..., marks=slow).
slow = pytest.mark.slow
# These need PyTorch and transformers: they run where they are named, `pytest tests/peers`, and fail without.
collect_ignore = ["peers"]
BACKENDS = ["numpy", *(["c"] if kernels.available() else [])]

_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
# In CI the same 100 examples every time, so that a red run is red for everybody, and the whole run stays within twelve
# minutes; elsewhere new ones each time. REFROPE_TEST_EXAMPLES asks for another number of them in CI.
settings.register_profile(
    "ci", max_examples=int(os.environ.get("REFROPE_TEST_EXAMPLES", "100")), derandomize=True, **_COMMON
)
settings.register_profile("local", max_examples=100, **_COMMON)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def same_bits(a, b):
    """Equal bit for bit, dtype and shape included, but for the payload of NaNs.

    A function and not `a.tobytes() == b.tobytes()` in an assert, whose explanation of a difference takes minutes.
    """
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    numbers = ~np.isnan(a)
    return np.array_equal(np.isnan(b), ~numbers) and a[numbers].tobytes() == b[numbers].tobytes()


@pytest.fixture
def loaded(monkeypatch):
    """What the loader of language models was asked for, each time; a small random model is its answer."""
    asked = []

    def load(source, *, backend="c", dtype=np.float32, pre=None):
        asked.append((source, backend, dtype, pre))
        return language_model(backend=backend, dtype=dtype)

    monkeypatch.setattr("refrope.lm.loading.load", load)
    return asked


@pytest.fixture
def text(tmp_path):
    """A file of some four hundred characters, not all of them ASCII."""
    path = tmp_path / "text.txt"
    path.write_text("A text with an übermäßig long tail: " + "all work and no play " * 20, encoding="utf-8")
    return path

"""The bounds of all comparisons, how an error is measured, and the worst errors of a run for its summary."""

import os

import numpy as np

# float64 rounds at 1.1e-16. What is compared comes out of a chain of sums of up to a thousand products of numbers of
# size 1 to 10; README.md has the errors measured, some 1e-14. A constant taken in float32, a wrong factor or another
# order of operations that changes more than rounding is off by 1e-8 or more.
FORWARD = 1e-12
# Gradients lose a digit or two more: they subtract terms of like size.
GRADIENT = 1e-10
# A gradient that is zero in exact arithmetic (the score of a query's only key, say) comes out as the rounding of terms
# of size 1 to 10: it is compared as if its largest entry were this.
VANISHING = 1e-3

WORST: dict[tuple[str, str], float] = {}


def as_numpy(values):
    """A tensor, detached, or anything else as a NumPy array."""
    return values.detach().numpy() if hasattr(values, "detach") else np.asarray(values)


def relative_error(found, expected, least):
    """The largest distance, as a share of the largest entry of `expected`, or of `least` where that is more."""
    found, expected = as_numpy(found), as_numpy(expected)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype == np.float64
    assert np.isfinite(expected).all()
    assert np.isfinite(found).all()
    return float(np.abs(found - expected).max(initial=0) / max(least, np.abs(expected).max(initial=0)))


def same(found, expected, bound=FORWARD):
    """Results of a forward pass, or states after a step: equal within `bound` of one or of the largest; the error."""
    return hold("forward", relative_error(found, expected, 1.0), bound)


def same_gradient(found, expected, bound=GRADIENT, *, terms=0.0):
    """Gradients: equal within `bound` of the largest entry, or of the largest of the `terms` that it is a sum of."""
    return hold("gradient", relative_error(found, expected, max(VANISHING, np.abs(terms).max(initial=0))), bound)


def hold(kind, error, bound):
    """Note the error under the test that runs, fail where it is beyond `bound`, else return it."""
    test = os.environ["PYTEST_CURRENT_TEST"].split(" ")[0].split("/")[-1].split("[")[0]
    WORST[test, kind] = max(error, WORST.get((test, kind), 0.0))
    assert error <= bound, f"{kind} error {error:.2e} is beyond {bound:.0e}"
    return error

"""Intervals, paired tests and Holm's correction, against enumeration and against their definitions."""

import itertools
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from refrope.randomness import bit_source, bounded_integers, normal_numbers
from refrope.report import statistics
from refrope.report.paper import PAPER_OOD, PAPER_VARIANCE, deviations, difference
from refrope.report.statistics import bootstrap_interval, compare, estimate, holm, least_sign_flip_p, sign_flip_p

VALUES = (0.466, 0.359, 0.590, 0.370, 0.383)  # RoPE on cot, seeds 1 to 5, of the README
OTHERS = (0.523, 0.549, 0.618, 0.413, 0.366)  # Resonance RoPE
ROUNDING = 1e-12  # sums of a few numbers near 1 in another order
SHARE_ERROR = 0.01  # of a probability out of 9,999 resamples: six standard errors of 0.025 is 0.0094
COVERAGE_ERROR = 0.05  # of a share of 400 cases: at 0.83 two and a half of its standard errors, 0.019

levels = st.floats(0.001, 0.999)
p_values = st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=7)
accuracies = st.floats(0, 1).map(lambda x: round(x, 5))


def step_down_rejects(ps, level):
    """Holm's procedure in his own words: go up from the smallest p, stop at the first above level / (m - i + 1)."""
    rejected = [False] * len(ps)
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    for i, place in enumerate(order):
        if ps[place] > level / (len(ps) - i):
            break
        rejected[place] = True
    return rejected


@given(st.lists(st.floats(0, 1), max_size=7), levels)
def test_holm_rejects_what_the_step_down_procedure_rejects(ps, level):
    corrected = holm(ps)
    near = any(abs(c - level) < ROUNDING for c in corrected)  # p m <= a and p <= a / m may round apart
    assert near or [c <= level for c in corrected] == step_down_rejects(ps, level)


@given(p_values)
def test_holm_leaves_out_tests_that_could_not_be_made(ps):
    corrected = holm(ps)
    assert [c is None for c in corrected] == [p is None for p in ps]
    assert [c for c in corrected if c is not None] == holm([p for p in ps if p is not None])
    assert all(p <= c <= 1 for p, c in zip(ps, corrected, strict=True) if p is not None)


def test_holm_of_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.7, 0.9]) == [1.0, 1.0]


@given(st.lists(accuracies.map(lambda a: a - 0.4), min_size=1, max_size=8))
def test_the_sign_flip_p_is_the_share_of_all_sign_choices(differences):
    found = abs(sum(differences))
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in SIGNS[len(differences)]]
    assert sign_flip_p(differences) == sum(each >= found - ROUNDING for each in sums) / len(sums)
    assert least_sign_flip_p(len(differences)) <= sign_flip_p(differences) <= 1


SIGNS = {n: list(itertools.product((1, -1), repeat=n)) for n in range(1, 9)}


def test_the_sign_flip_p_is_that_of_scipy():
    differences = np.subtract(OTHERS, VALUES)
    theirs = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert sign_flip_p(differences.tolist()) == theirs.pvalue == 0.125


def test_six_seeds_are_the_fewest_whose_sign_flip_test_reaches_five_per_cent():
    fewest = statistics.FEWEST_FOR_FLIPS
    assert least_sign_flip_p(fewest) <= 0.05 < least_sign_flip_p(fewest - 1) == 0.0625
    assert sign_flip_p([0.1, 0.2, 0.15, 0.3, 0.07]) == 0.0625
    with pytest.raises(ValueError, match="21 differences, expected 1 to 20"):
        sign_flip_p([0.1] * 21)
    assert sign_flip_p([0.1] * 20) == 2.0**-19


def test_an_estimate_is_mean_sample_deviation_and_students_interval():
    found = estimate(VALUES)
    assert (found.n, found.mean) == (5, pytest.approx(np.mean(VALUES), rel=ROUNDING))
    assert found.deviation == pytest.approx(np.std(VALUES, ddof=1), rel=ROUNDING)
    assert found.student == pytest.approx(stats.t.interval(0.95, 4, found.mean, stats.sem(VALUES)), rel=ROUNDING)


def test_one_value_has_no_interval_and_equal_values_one_of_no_width():
    alone = estimate([0.3])
    assert (alone.mean, alone.deviation, alone.bootstrap, alone.student) == (0.3, None, None, None)
    equal = estimate([0.1, 0.1, 0.1])
    assert (equal.mean, equal.deviation, equal.bootstrap, equal.student) == (0.1, 0, (0.1, 0.1), (0.1, 0.1))
    with pytest.raises(ValueError, match="no values"):
        estimate([])


@pytest.mark.parametrize("values", [VALUES[:4], VALUES, (0.1, 0.1, 0.1, 0.9)])
def test_the_bootstrap_interval_cuts_off_a_fortieth_of_all_resamples_on_each_side(values):
    means = [np.mean(chosen) for chosen in itertools.product(values, repeat=len(values))]
    low, high = bootstrap_interval(values)
    assert np.mean(np.less(means, low - ROUNDING)) <= 0.025 + SHARE_ERROR
    assert np.mean(np.less_equal(means, low + ROUNDING)) >= 0.025 - SHARE_ERROR
    assert np.mean(np.greater(means, high + ROUNDING)) <= 0.025 + SHARE_ERROR
    assert np.mean(np.greater_equal(means, high - ROUNDING)) >= 0.025 - SHARE_ERROR
    assert min(values) <= low < high <= max(values)


def test_the_bootstrap_interval_of_up_to_three_values_is_their_range():
    assert bootstrap_interval((0.2, 0.5)) == (0.2, 0.5)
    assert bootstrap_interval((0.2, 0.5, 0.4)) == pytest.approx((0.2, 0.5), rel=ROUNDING)


def test_bootstrap_samples_come_from_our_own_integers():
    drawn = statistics._OurIntegers().integers(0, 5, size=(3, 7))
    assert drawn.tolist() == bounded_integers(bit_source(0, "bootstrap"), 5, 21).reshape(3, 7).tolist()
    with pytest.raises(ValueError, match=r"expected \(0, high, size\)"):
        statistics._OurIntegers().integers(1, 5, size=3)
    assert bootstrap_interval(VALUES) == bootstrap_interval(VALUES)
    # The same with every NumPy and SciPy: pinned, as a report is the same byte for byte.
    assert bootstrap_interval(VALUES) == pytest.approx((0.3682, 0.519), rel=ROUNDING)


def test_intervals_hold_the_mean_as_often_as_is_said():
    draws = normal_numbers(bit_source(7, "coverage"), 400 * 5).reshape(400, 5)
    found = [estimate(row) for row in draws.tolist()]
    bootstrap = np.mean([low <= 0 <= high for low, high in (each.bootstrap for each in found)])
    student = np.mean([low <= 0 <= high for low, high in (each.student for each in found)])
    assert abs(bootstrap - 0.83) < COVERAGE_ERROR
    assert abs(student - 0.95) < COVERAGE_ERROR


def test_a_comparison_is_over_common_seeds_in_order():
    first = dict(zip((5, 4, 3, 2, 1, 9), (*OTHERS[::-1], 0.99), strict=True))
    second = dict(zip((1, 2, 3, 4, 5, 8), (*VALUES, 0.01), strict=True))
    found = compare(first, second)
    assert found.seeds == (1, 2, 3, 4, 5)
    assert found.difference.mean == pytest.approx(np.mean(np.subtract(OTHERS, VALUES)), rel=ROUNDING)
    assert found.t_p == pytest.approx(stats.ttest_rel(OTHERS, VALUES).pvalue, rel=ROUNDING)
    assert found.effect == pytest.approx(found.difference.mean / found.difference.deviation)
    assert (found.flip_p, found.least_flip_p) == (0.125, 0.0625)
    assert compare({1: 0.5}, {2: 0.5}) is None


def test_what_cannot_be_tested_has_no_p():
    alone = compare({1: 0.5}, {1: 0.25})
    assert (alone.difference.mean, alone.t_p, alone.flip_p, alone.effect) == (0.25, None, None, None)
    # 0.3 - 0.2 and 0.2 - 0.1 differ by a rounding, of which a t test would make p = 1e-32.
    equal = compare({1: 0.3, 2: 0.2, 3: 0.4}, {1: 0.2, 2: 0.1, 3: 0.3})
    assert (equal.t_p, equal.effect, equal.flip_p) == (None, None, 0.25)
    many = {seed: seed / 100 for seed in range(21)}
    found = compare(many, {seed: value**2 for seed, value in many.items()})
    assert found.flip_p is found.least_flip_p is None
    assert found.t_p is not None


def test_a_missing_scipy_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ValueError, match=r"SciPy is not installed here \(pip install 'refrope\[report\]'\)"):
        estimate([0.1, 0.2])


def test_a_printed_variance_is_a_deviation_in_two_readings():
    assert deviations(0.43) == pytest.approx((0.656, 6.557), abs=1e-3)
    # The second: the variance of fractions is 0.0043, their deviation 0.0656, in points 6.56.
    assert deviations(0.43)[1] == pytest.approx(100 * np.sqrt(0.43 / 100))
    assert PAPER_VARIANCE.keys() == PAPER_OOD.keys()
    assert all(PAPER_VARIANCE[task].keys() == PAPER_OOD[task].keys() for task in PAPER_OOD)


def test_the_papers_six_differences():
    assert [difference(task, f"resonance-{plain}", plain) for task in PAPER_OOD for plain in ("rope", "yarn")] == [
        -2.65,
        2.37,
        5.69,
        0.87,
        11.82,
        14.76,
    ]
    assert difference("cot", "alibi", "rope") is None
    assert difference("chess", "rope", "yarn") is None

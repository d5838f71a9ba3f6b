"""AdamW and the one-cycle schedule are the published algorithms."""

import inspect
import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from refrope.nn.optim import AdamW, OneCycle, adamw_update


def slow_adamw(weights, gradients, rates, betas, decay=0.01, beta2=0.999, eps=1e-8):
    """Algorithm 2 of Loshchilov and Hutter for one weight, in plain floats."""
    weight, m, v = weights, 0.0, 0.0
    for t, (g, rate, beta1) in enumerate(zip(gradients, rates, betas, strict=True), start=1):
        weight -= rate * decay * weight
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        weight -= rate * (m / (1 - beta1**t)) / (math.sqrt(v / (1 - beta2**t)) + eps)
    return weight


def test_adamw_is_its_algorithm():
    generator = np.random.default_rng(1)
    weight, gradients = generator.standard_normal(5), generator.standard_normal((20, 5))
    rates, betas = generator.uniform(1e-4, 1e-2, 20), generator.uniform(0.85, 0.95, 20)
    expected = [slow_adamw(weight[i], gradients[:, i], rates, betas) for i in range(5)]
    state = AdamW(5, np.float64)
    for gradient, rate, beta in zip(gradients, rates, betas, strict=True):
        adamw_update(weight, state.moment1, state.moment2, gradient, state.settings(rate, beta))
    assert np.allclose(weight, expected, rtol=1e-12, atol=0)


def test_one_cycle_rises_for_a_tenth_and_falls_to_almost_nothing():
    cycle = OneCycle(2e-4, 1000)
    rates, betas = np.array([cycle.at(step) for step in range(1000)]).T
    assert np.argmax(rates) == 99
    assert rates[99] == pytest.approx(2e-4)
    assert betas[99] == pytest.approx(0.85)
    assert rates[0] == pytest.approx(2e-4 / 25)
    assert rates[-1] == pytest.approx(2e-4 / 25 / 1e4)
    assert betas[0] == betas[-1] == pytest.approx(0.95)
    assert (np.diff(rates[:100]) > 0).all()
    assert (np.diff(rates[99:]) < 0).all()
    middle = 2e-4 / 25 / 1e4 + (2e-4 - 2e-4 / 25 / 1e4) / 2  # the cosine's half way down
    assert rates[549:551].mean() == pytest.approx(middle, rel=1e-2)


def test_a_warmup_of_one_step_starts_at_the_peak():
    assert OneCycle(1e-3, 10).at(0) == pytest.approx((1e-3, 0.85))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 11])
def test_short_cycles_stay_in_range(steps):
    rates = [OneCycle(1e-3, steps).at(step)[0] for step in range(steps)]
    assert all(0 < rate <= 1e-3 for rate in rates)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 17, 2**20 + 1, 2**53 - 1])
def test_a_cycle_that_rises_to_its_very_end_still_ends(steps):
    rate, beta = OneCycle(1e-3, steps, math.nextafter(1, 0)).at(steps - 1)
    assert rate == pytest.approx(1e-3 / 25 / 1e4)
    assert beta == pytest.approx(0.95)


def test_memory_for_gradients_is_taken_once():
    state = AdamW(5, np.float64)
    gradients = state.gradients(3)
    assert gradients.shape == (3, 5)
    assert gradients.dtype == np.float64
    assert state.gradients(2).shape == (2, 5)
    assert np.shares_memory(state.gradients(2), gradients)
    assert np.shares_memory(state.gradients(3), gradients)
    assert state.gradients(4).shape == (4, 5)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="OneCycle: peak is 0"):
        OneCycle(0, 10)
    with pytest.raises(ValueError, match="OneCycle: steps is 0"):
        OneCycle(1e-3, 0)
    for warmup in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match=f"OneCycle: warmup is {warmup}, expected a number between 0 and 1"):
            OneCycle(1e-3, 10, warmup)


def test_a_schedule_never_changes():
    with pytest.raises(FrozenInstanceError):
        OneCycle(1e-3, 10).peak = 1.0


def test_an_optimizer_starts_from_sizes_and_constants_alone():
    taken = list(inspect.signature(AdamW).parameters)
    assert taken == ["size", "dtype", "weight_decay", "beta2", "eps", "step", "spans"]

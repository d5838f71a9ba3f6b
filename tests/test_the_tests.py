"""Plant a bug, and demand that a test of ours catches it."""

import decimal
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
import test_analysis
import test_encodings
import test_layers
import test_optim
import test_posgen
import test_posgen_splits
import test_rotary
import test_tables
import test_train
import test_transformer
import test_variants
from conftest import BACKENDS
from hypothesis import Phase, settings

from refrope import analysis, posgen, randomness, rotary, tables, train
from refrope.encodings import LongRoPE, XPos, YaRN, interpolation, ramps, resonance, yarn
from refrope.encodings.base import RotaryEncoding
from refrope.nn import attention, layers, optim
from refrope.nn.backends import NumpyOps

ROTATE, COS_SIN, PERIODIC = rotary.rotate, tables.cos_sin, tables.periodic_cos_sin


# One failing example is looked for, no second one, and it is neither shrunk nor remembered: it is a planted one. The
# examples are the same every time: 60 new ones missed a bug of one variant in 2 runs of 26.
QUICK = settings(
    settings.default,
    phases=[Phase.generate],
    max_examples=60,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
)


def caught(test, *arguments):
    """The test fails when it is run with the bug in place: by an assertion, or by several in one go."""
    with pytest.MonkeyPatch.context() as quick:
        # A @given function keeps the settings of its definition under this name. Under another one it is slow, no more.
        quick.setattr(test, "_hypothesis_internal_use_settings", QUICK, raising=False)
        with pytest.raises(Exception) as failure:  # noqa: PT011
            test(*arguments)
    failures = getattr(failure.value, "exceptions", [failure.value])
    assert all(isinstance(each, AssertionError) for each in failures), failures


def plant_rotate(monkeypatch, wrong):
    monkeypatch.setattr(rotary, "rotate", wrong)
    monkeypatch.setitem(test_rotary.ROTATE, "numpy", wrong)


def test_sign_of_the_sine(monkeypatch):
    plant_rotate(monkeypatch, lambda x, cos, sin, **options: ROTATE(x, cos, -sin, **options))
    caught(test_rotary.test_interleaved_is_complex_multiplication)
    caught(test_rotary.test_rotation_is_its_explicit_matrix, 6, "half", False, False)


def test_layouts_swapped(monkeypatch):
    other = {"half": "interleaved", "interleaved": "half"}
    plant_rotate(monkeypatch, lambda x, cos, sin, layout="half", **o: ROTATE(x, cos, sin, layout=other[layout], **o))
    caught(test_rotary.test_interleaved_is_complex_multiplication)
    caught(test_rotary.test_rotation_is_its_explicit_matrix, 6, "half", False, False)


def test_transpose_forgotten(monkeypatch):
    plant_rotate(monkeypatch, lambda x, cos, sin, transpose=False, **options: ROTATE(x, cos, sin, **options))
    caught(test_rotary.test_transpose_is_the_adjoint)


@pytest.mark.skipif("c" not in BACKENDS, reason="the C kernels are not built")
def test_one_bit_of_difference_between_the_twins(monkeypatch):
    monkeypatch.setattr(rotary, "rotate", lambda *a, **o: np.nextafter(ROTATE(*a, **o), np.inf, dtype=a[0].dtype))
    caught(test_rotary.test_c_equals_numpy_bit_for_bit, np.float32)


def test_position_off_by_one(monkeypatch):
    monkeypatch.setattr(tables, "cos_sin", lambda f, p, **o: COS_SIN(f, np.asarray(p) + 1, **o))
    caught(test_tables.test_position_zero_is_the_attention_factor_and_nought)
    caught(test_tables.test_float32_tables_hold_their_stated_error)


def test_float32_angles(monkeypatch):
    def wrong(inv_freq, positions, *, dtype=np.float32, attention_factor=1.0):
        angles = (np.asarray(positions, np.float32)[..., None] * inv_freq.astype(np.float32)).astype(np.float64)
        return (attention_factor * np.cos(angles)).astype(dtype), (attention_factor * np.sin(angles)).astype(dtype)

    monkeypatch.setattr(tables, "cos_sin", wrong)
    caught(test_tables.test_float32_tables_hold_their_stated_error)


def test_attention_factor_twice(monkeypatch):
    monkeypatch.setattr(yarn.YaRN, "_temperature", lambda self: (0.1 * np.log(self.factor) + 1) ** 2)
    caught(test_encodings.test_llama2_yarn_has_the_ramp_of_its_code)


def test_resonance_tables_from_dense_angles(monkeypatch):
    def wrong(periods, positions, **options):
        return COS_SIN(2 * np.pi / np.maximum(periods, 1), positions, **options)

    monkeypatch.setattr(tables, "periodic_cos_sin", wrong)
    caught(test_tables.test_resonance_tables_repeat_bit_for_bit_up_to_two_to_the_63)
    caught(test_tables.test_resonance_tables_are_exact_at_every_int64_position)


def test_wavelengths_rounded_down(monkeypatch):
    monkeypatch.setattr(resonance, "ROUND_HALF_EVEN", decimal.ROUND_FLOOR)
    caught(test_encodings.test_resonance_wavelengths_are_whole_and_within_a_half)
    caught(test_encodings.test_whole_wavelengths_are_those_of_sixty_digits)


def test_rounding_before_scaling(monkeypatch):
    def wrong(self):
        plain = [(2 * Decimal(np.pi) / f).to_integral_value() for f in self.encoding.plain_inv_freq()]
        return np.array([w * s for w, s in zip(plain, self.encoding.exact_stretch(), strict=True)])

    monkeypatch.setattr(resonance.Resonance, "exact_wavelengths", wrong)
    caught(test_encodings.test_resonance_rounds_after_scaling)
    caught(test_encodings.test_resonance_wavelengths_are_whole_and_within_a_half)


def test_exponent_over_the_wrong_dimension(monkeypatch):
    def wrong(self):
        ratio = Decimal(self.base) ** (Decimal(-2) / (self.turned + 2))
        return np.array([ratio**j for j in range(self.pairs)])

    monkeypatch.setattr(RotaryEncoding, "plain_inv_freq", wrong)
    caught(test_encodings.test_rope_is_the_nearest_float_to_the_formula)


@pytest.mark.parametrize("rounding", ["ROUND_FLOOR", "ROUND_CEILING"])
def test_ramp_ends_rounded_the_wrong_way(monkeypatch, rounding):
    monkeypatch.setattr(ramps, rounding, decimal.ROUND_HALF_EVEN)
    caught(test_encodings.test_llama2_yarn_has_the_ramp_of_its_code)


def test_variants_that_are_nearly_right(monkeypatch):
    """In one go: another exponent, the other role, the other list, a stale length, a ramp of the wrong length."""
    right, at_once = interpolation.base_stretch, test_variants.test_every_variant_is_the_nearest_float_to_its_formula
    with monkeypatch.context() as planted:
        planted.setattr(interpolation, "base_stretch", lambda e, s: right(e, s) ** (1 - Decimal(2) / e.turned))
        caught(at_once)
        caught(test_variants.test_ntks_meanings_differ_at_the_ends, "ntk-aware", 1, 8)
    with monkeypatch.context() as planted:
        power = XPos._tables
        other = {"q": "k", "k": "q"}
        planted.setattr(XPos, "_tables", lambda self, c, p, d, role="q": power(self, c, p, d, other[role]))
        caught(test_variants.test_xpos_lets_far_keys_fade_and_the_fastest_pair_most)
    with monkeypatch.context() as planted:
        planted.setattr(LongRoPE, "for_length", lambda self, n: replace(self, length=n + 1))
        caught(test_variants.test_longrope_takes_the_long_list_beyond_the_original_length)
    with monkeypatch.context() as planted:
        planted.setattr(yarn, "index_ramp", lambda e, length, *a, **o: ramps.index_ramp(e, e.original_length, *a, **o))
        caught(test_variants.test_the_official_posgen_ramp_lies_on_other_pairs)
    with monkeypatch.context() as planted:
        stretched = YaRN.exact_stretch
        planted.setattr(YaRN, "exact_stretch", lambda self: stretched(self) * (1 + Decimal(2) ** -52))
        caught(at_once)


def test_feature_gap_of_the_best_test_position(monkeypatch):
    right = analysis._window_minima
    monkeypatch.setattr(analysis, "_window_minima", lambda values, window: right(values, window)[:1])
    caught(test_analysis.test_gap_is_its_definition)


@pytest.mark.parametrize("function", ["rotate", "rmsnorm_backward", "relu_backward", "attention_backward"])
def test_gradients_that_are_a_thousandth_off(monkeypatch, function):
    right = getattr(NumpyOps, function)

    def wrong(*arguments, **options):
        result = right(*arguments, **options)
        if function != "rotate" or options.get("transpose"):
            for array in result if isinstance(result, tuple) else (result,):
                array *= 1.001
        return result

    monkeypatch.setattr(NumpyOps, function, staticmethod(wrong))
    caught(test_transformer.test_every_gradient_of_the_model, "numpy", test_transformer.SMALL)


def test_dropout_of_attention_weights_forgotten_in_the_backward_pass(monkeypatch):
    right = NumpyOps.attention_backward

    def wrong(*arguments, dropout, **options):
        return right(*arguments, **options)

    monkeypatch.setattr(NumpyOps, "attention_backward", staticmethod(wrong))
    caught(test_transformer.test_every_gradient_of_the_model, "numpy", test_transformer.DROPPING)


def test_causal_mask_off_by_one(monkeypatch):
    tri = np.tri
    monkeypatch.setattr(attention.np, "tri", lambda n, m, k, dtype: tri(n, m, k + 1, dtype))
    caught(test_transformer.test_changing_a_token_changes_no_output_before_it, "numpy")


def test_root_mean_square_without_the_mean(monkeypatch):
    right = layers.rmsnorm_backward
    monkeypatch.setattr(layers, "rmsnorm_backward", lambda dy, x, *rest, **o: right(dy, x * 0.999, *rest, **o))
    caught(test_layers.test_rmsnorm_gradients, "numpy")


def test_weight_decay_forgotten(monkeypatch):
    def settings_without_decay(self, learning_rate, beta1):
        numbers = RIGHT_SETTINGS(self, learning_rate, beta1)
        numbers[0] = 1.0
        return numbers

    RIGHT_SETTINGS = optim.AdamW.settings
    monkeypatch.setattr(optim.AdamW, "settings", settings_without_decay)
    caught(test_optim.test_adamw_is_its_algorithm)


def test_loss_over_the_prefix_as_well(monkeypatch):
    for name in ("cross_entropy_forward", "cross_entropy_backward"):
        right = getattr(layers, name)
        wrong = staticmethod(lambda x, t, w, right=right, **total: right(x, t, np.ones_like(w), **total))
        monkeypatch.setattr(NumpyOps, name, wrong)
    caught(test_train.test_the_loss_counts_generated_tokens_only)


def test_shuffling_that_differs_from_run_to_run(monkeypatch):
    monkeypatch.setattr(train, "permutation", lambda source, n: np.random.default_rng().permutation(n))
    caught(test_train.test_training_twice_gives_the_same_bits, "numpy", test_train.CONFIG)


def test_pointer_of_the_semirecursive_task_off_by_one(monkeypatch):
    right = posgen.far_start
    monkeypatch.setattr(
        posgen, "far_start", lambda task, index, j, k: max(0, right(task, index, j, k) - (task == "semirecursive"))
    )
    caught(test_posgen.test_every_task_agrees_with_plain_python)


def test_validation_prefixes_taken_from_training(monkeypatch):
    right = randomness.distinct_rows

    def wrong(source, count, modulus, width):
        rows = right(source, count, modulus, width)
        rows[-1:] = rows[:1]
        return rows

    monkeypatch.setattr(randomness, "distinct_rows", wrong)
    caught(test_posgen_splits.test_disjoint_prefixes_are_different_for_all_sizes)

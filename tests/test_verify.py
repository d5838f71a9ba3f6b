"""refrope verify: what it counts is right, and each of its checks fails when the thing that it checks is broken."""

import json
import re
from decimal import Decimal

import numpy as np
import pytest
from conftest import BACKENDS

from refrope import cli, kernels, posgen, rotary, tables, vectors
from refrope.encodings import Resonance, RoPE, YaRN, resonance, yarn
from refrope.nn import attention, layers, optim
from refrope.nn.backends import operations
from refrope.nn.transformer import Transformer
from refrope.verify import SECTIONS, certificate, posgen_checks, verify
from refrope.verify.tally import Check, Draws, Tally, perform

C_BUILT = pytest.mark.skipif("c" not in BACKENDS, reason="the C kernels are not built")


def result_of(claim):
    """What comes out of the one check whose claim begins so."""
    (check,) = [check for check in certificate.CHECKS if check.claim.startswith(claim)]
    return perform(check, 0)


def fails(*claims):
    """Whether all of these checks fail now."""
    return not any(result_of(claim).passed for claim in claims)


def tallied(compare):
    tally = Tally(0, "test")
    compare(tally)
    return tally.count, tally.failed, tally.worst


# ---- what is counted ----


def test_bits_are_compared_with_signs_of_zero_and_places_of_nan():
    zero, nan = np.array([0.0, 1.0]), np.array([np.nan, 1.0])
    assert tallied(lambda t: t.same(zero, zero.copy(), "")) == (2, 0, 0.0)
    assert tallied(lambda t: t.same(zero, np.array([-0.0, 1.0]), "")) == (2, 1, 0.0)
    assert tallied(lambda t: t.same(nan, -nan * np.array([1, -1]), "")) == (2, 0, 0.0)
    assert tallied(lambda t: t.same(nan, zero, ""))[1] == 1
    assert tallied(lambda t: t.same(zero, np.nextafter(zero, 2), ""))[1] == 2
    assert tallied(lambda t: t.same(zero, zero.astype(np.float32), ""))[1] == 1
    assert tallied(lambda t: t.same(zero, zero[None], ""))[1] == 1


def test_errors_are_counted_against_their_bound():
    a = np.array([1.0, 2.0, 3.0])
    assert tallied(lambda t: t.within(a, a + np.array([0, 0.25, -0.5]), 1.0, "")) == (3, 0, 0.5)
    assert tallied(lambda t: t.within(a, a + np.array([0, 0.25, -0.5]), [0, 1.0, 0.25], "")) == (3, 1, 2.0)
    assert tallied(lambda t: t.within(a, a, 0.0, "")) == (3, 0, 0.0)
    assert tallied(lambda t: t.within(a, a + 1e-9, 0.0, ""))[1] == 3
    assert tallied(lambda t: t.within(np.array([np.nan, np.inf]), np.array([1.0, np.inf]), 1.0, "")) == (2, 1, np.inf)
    assert tallied(lambda t: t.within(a, a[:2], 1.0, ""))[1] == 1
    assert tallied(lambda t: t.within(a[:0], a[:0], 1.0, "")) == (0, 0, 0.0)
    one, off = np.float32(1), np.nextafter(np.float32(1), np.float32(2))
    assert tallied(lambda t: t.within(one, off, 2.0**-24, ""))[1] == 1  # a difference of 2^-23


def test_a_failure_says_where_and_a_check_that_raises_or_compares_nothing_fails():
    def raises(tally):
        tally.true([True, False], "second")
        raise KeyError("gone")

    result = perform(Check("s", "c", raises), 0)
    assert (result.count, result.failed, result.passed) == (2, 2, False)
    assert result.failures == ("second: does not hold", "KeyError: 'gone'")
    assert perform(Check("s", "c", lambda tally: None), 0).failures == ("nothing was compared",)


def test_random_inputs_depend_on_seed_and_name():
    numbers = [Draws(*of).normal(5).tolist() for of in ((0, "a"), (0, "a"), (1, "a"), (0, "b"))]
    assert numbers[0] == numbers[1]
    assert numbers[0] != numbers[2] != numbers[3] != numbers[0]
    drawn = Draws(0, "a").integers(-3, 4, 1000)
    assert {*drawn.tolist()} == {*range(-3, 4)}


# ---- every check fails when its subject is broken ----


def test_a_frequency_that_is_one_bit_off_is_noticed(monkeypatch):
    right = YaRN.inv_freq.func
    monkeypatch.setattr(YaRN, "inv_freq", property(lambda self: np.nextafter(right(self), 1)))
    assert fails("frequencies, wavelengths", "Llama 3's scaling")


def test_an_amplitude_that_is_two_units_off_is_noticed(monkeypatch):
    right = YaRN._temperature
    monkeypatch.setattr(YaRN, "_temperature", lambda self: right(self) * (1 + 2.0**-51))
    assert fails("attention and softmax factors")


def test_angles_in_float32_are_noticed(monkeypatch):
    right = tables._cos_sin_of_angles
    monkeypatch.setattr(
        tables, "_cos_sin_of_angles", lambda angles, *rest: right(angles.astype(np.float32).astype(float), *rest)
    )
    assert fails("float64 tables", "float32 tables", "rotated q and k and their logits are within their bound (NumPy)")


def test_an_altered_vector_file_is_noticed(monkeypatch, tmp_path):
    for path in vectors.FOLDER.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    text = (tmp_path / "linear.json").read_text()
    (tmp_path / "linear.json").write_text(text.replace("0.1", "0.2", 1))
    monkeypatch.setattr(vectors, "FOLDER", tmp_path)
    assert "linear.json is altered" in result_of("the vector files").failures[0]


@pytest.mark.parametrize("claim", ["every test position", "so do random int64 positions"])
def test_resonance_from_dense_angles_is_noticed(monkeypatch, claim):
    from refrope.verify import theorem_checks

    monkeypatch.setattr(Resonance, "cos_sin", RoPE.cos_sin)
    monkeypatch.setattr(theorem_checks, "MODELS", theorem_checks.MODELS[:3])
    assert fails(claim)


def test_wrong_gaps_are_noticed(monkeypatch):
    from refrope.verify import theorem_checks

    right = theorem_checks.feature_gap
    monkeypatch.setattr(theorem_checks, "MODELS", theorem_checks.MODELS[:3])
    monkeypatch.setattr(theorem_checks, "feature_gap", lambda *a: right(*a) + 1e-8)
    assert fails("the feature gap of pre-critical", "the gap's closed form")
    monkeypatch.setattr(theorem_checks, "feature_gap", lambda *a: right(*a) * 0)
    assert fails("without Resonance")


def test_rounding_down_is_noticed_in_the_claims(monkeypatch):
    def floored(wavelengths):
        return np.array([w if not w.is_finite() else Decimal(int(w)) for w in wavelengths])

    monkeypatch.setattr(resonance, "_whole", floored)
    assert fails("wavelengths and whole wavelengths", "LLaMA-2's pre-critical pairs", "rounding moves a wavelength")


def test_turns_of_a_longer_length_are_noticed_in_the_claims(monkeypatch):
    right = yarn.index_ramp
    monkeypatch.setattr(yarn, "index_ramp", lambda e, length, *ends, **o: right(e, 4 * length, *ends, **o))
    monkeypatch.setattr(yarn, "turn_ramp", right)
    assert fails("the code's YaRN in PosGen", "YaRN is the formula")


@C_BUILT
@pytest.mark.parametrize(
    ("module", "name", "wrong", "claim"),
    [
        (rotary, "rotate", lambda y: y * (1 + 1e-7), "rotate: C and NumPy"),
        (rotary, "rotate_periodic", lambda y: np.nextafter(y, np.inf), "rotate_periodic"),
        (layers, "relu_backward", lambda y: -y, "ReLU"),
        (layers, "embedding_forward", lambda y: y[::-1], "ReLU"),
        (layers, "rmsnorm_forward", lambda y: (y[0] * y[0].dtype.type(1 + 1e-5), y[1]), "RMSNorm"),
        (layers, "swiglu_forward", lambda y: y * y.dtype.type(1 + 1e-4), "SwiGLU"),
        (optim, "adamw_update", lambda y: y, "AdamW"),
        (attention, "attention_backward", lambda y: (y[0] * (1 + 1e-4), *y[1:]), "attention, forward"),
    ],
)
def test_twins_that_differ_are_noticed(monkeypatch, module, name, wrong, claim):
    right = getattr(module, name)
    if name == "adamw_update":  # it writes in place
        monkeypatch.setattr(module, name, lambda w, m, v, g, s: right(w, m, v, g * g.dtype.type(1.001), s))
    else:
        monkeypatch.setattr(module, name, lambda *a, **o: wrong(right(*a, **o)))
    assert fails(claim)


@C_BUILT
def test_a_kernel_that_depends_on_the_threads_is_noticed(monkeypatch):
    right = kernels.attention_forward

    def wrong(*arguments, **options):
        out, lse = right(*arguments, **options)
        return (out if kernels.get_num_threads() < 3 else np.nextafter(out, 9, dtype=out.dtype)), lse

    monkeypatch.setattr(kernels, "attention_forward", wrong)
    assert fails("kernels: the same bits", "a training step: the same bits")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_wrong_gradient_is_noticed(monkeypatch, backend):
    right, right_layer = Transformer._feed_forward_backward, operations(backend).rmsnorm_backward

    def wrong(self, i, dy):
        dx = right(self, i, dy)
        self.grads["layers.1.feed_forward.in"] *= 1.001
        return dx

    def wrong_layer(*arguments, **options):
        dx, dgain = right_layer(*arguments, **options)
        return dx, dgain * 1.001

    named = {"numpy": "(NumPy)", "c": "(C)"}[backend]
    monkeypatch.setattr(Transformer, "_feed_forward_backward", wrong)
    assert fails(f"every weight's gradient in a whole model is that of differences {named}")
    monkeypatch.setattr(
        operations(backend), "rmsnorm_backward", staticmethod(wrong_layer) if backend == "numpy" else wrong_layer
    )
    assert fails(f"every layer's gradients are those of differences {named}")


def test_a_gradient_check_that_accepts_everything_is_noticed(monkeypatch):
    from refrope.verify import gradient_checks

    monkeypatch.setattr(gradient_checks, "gradient_error", lambda *a, **o: 0.0)
    assert fails("gradients that are wrong")


def test_a_wrong_rule_is_noticed(monkeypatch):
    right = posgen.far_start
    monkeypatch.setattr(posgen, "far_start", lambda task, index, j=1, k=3: max(0, right(task, index, j, k) - 1))
    posgen_checks._splits.cache_clear()
    try:
        assert fails(
            "sequences are those of plain loops", "the standard splits", "differences of neighbouring", "PosGen"
        )
    finally:
        posgen_checks._splits.cache_clear()


def test_prefixes_that_overlap_are_noticed(monkeypatch):
    right = posgen_checks.make_splits
    monkeypatch.setattr(posgen_checks, "make_splits", lambda task, recipe, seed: right(task, recipe="official", seed=1))
    posgen_checks._splits.cache_clear()
    try:
        assert fails("prefixes of train, validation and test")
    finally:
        posgen_checks._splits.cache_clear()


# ---- the certificate and the command ----


def test_a_certificate_says_what_ran(tmp_path, capsys):
    path = tmp_path / "certificate.json"
    assert cli.main(["verify", "--only", "posgen,claims", "--seed", "3", "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert found["format"] == "refrope-certificate-1"
    assert found["passed"]
    assert not found["complete"]  # two sections of seven
    assert found["seed"] == 3
    assert [check["section"] for check in found["checks"]] == ["claims"] * 9 + ["posgen"] * 5
    assert found["comparisons"] == sum(check["count"] for check in found["checks"]) > 100_000
    assert found["machine"]["kernels"] == kernels.build_info()
    assert found["hashes"] == certificate.hashes()
    assert (found["hashes"]["kernels"] is not None) == ("c" in BACKENDS)
    text = capsys.readouterr().out
    assert f"14 checks passed, {found['comparisons']:,} comparisons (seed 3" in text
    assert all(check["claim"] in text for check in found["checks"])


@pytest.mark.slow
def test_everything_passes_here():
    found = verify()
    assert found["passed"]
    assert found["complete"] == ("c" in BACKENDS)
    assert {check["section"] for check in found["checks"]} == {*SECTIONS}


def test_a_failure_gives_status_1_and_a_certificate_that_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(posgen, "with_front_token", lambda x, modulus: np.pad(x, ((0, 0), (1, 0)), constant_values=16))
    path = tmp_path / "certificate.json"
    assert cli.main(["verify", "--only", "posgen", "--json", str(path)]) == 1
    found = json.loads(path.read_text())
    assert not found["passed"]
    assert not found["complete"]
    assert found["failed"] > 0
    text = capsys.readouterr().out
    assert re.search(r"FAIL .*inputs, targets and mask are what the loss needs\n +recursive: the front token", text)
    assert "1 of 5 checks FAILED" in text


def test_without_kernels_the_twins_are_skipped_and_said_to_be(monkeypatch, capsys):
    monkeypatch.setattr(certificate.kernels, "available", lambda: False)
    found = verify(sections=["twins"])
    assert not found["complete"]
    assert found["comparisons"] == 0
    assert all(check["skipped"] == "the C kernels are not built here" for check in found["checks"])


def test_hashes_change_with_a_file(monkeypatch, tmp_path):
    (tmp_path / "vectors").mkdir()
    (tmp_path / "vectors" / "manifest.json").write_text("{}")
    (tmp_path / "__init__.py").write_text("")
    monkeypatch.setattr(certificate.refrope, "__file__", str(tmp_path / "__init__.py"))
    before = certificate.hashes()
    assert certificate.hashes() == before
    (tmp_path / "rope.py").write_text("x = 1")
    added = certificate.hashes()
    (tmp_path / "rope.py").rename(tmp_path / "yarn.py")
    assert len({before["package"], added["package"], certificate.hashes()["package"]}) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "vector"], "unknown section 'vector'; did you mean 'vectors'"),
        (["--only", ","], "sections are empty"),
        (["--seed", "-1"], "seed is -1"),
        (["--json", "no/such/place.json"], "verify: --json no/such/place.json cannot be written: no/such is"),
    ],
)
def test_bad_usage_is_said_before_anything_runs(arguments, words, capsys):
    assert cli.main(["verify", *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert "ok" not in said.out.split()

"""What decides an experiment's numbers: settings in which the paper's text and its code part, and their errors."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from conftest import BACKENDS, same_bits

from refrope import Resonance, RoPE, Transformer, TransformerConfig, YaRN, cli, experiment
from refrope.posgen import make_splits
from refrope.settings import ExperimentSettings
from refrope.train import TrainSettings, train

QUICK = {"epochs": 3, "train_sequences": 16, "test_sequences": 2}
SIZES = TransformerConfig(vocabulary=6, d_model=20, heads=3, head_dim=6, d_ff=28)
FEED_FORWARD = "layers.*.feed_forward.*"


class Silent:
    """Nobody watches."""

    def start(self, *arguments):
        """Say nothing."""

    step = epoch = finish = start


def yarn(**settings):
    return ExperimentSettings(**settings).tested_encoding("yarn", 256)


def test_yarn_in_the_dialect_of_the_papers_code():
    found = yarn(yarn_length="test")
    official = YaRN(64, factor=257 / 65, original_length=65, beta_fast=2.0, dialect="official-posgen")
    np.testing.assert_array_equal(found.inv_freq, official.inv_freq)
    assert found.attention_factor == official.attention_factor
    assert (found.inv_freq != yarn().inv_freq).any()


def test_yarn_in_the_dialect_of_the_papers_text():
    text = YaRN(64, factor=4.0, original_length=64, beta_fast=2.0, dialect="resonance-paper")
    assert yarn(yarn="train") == text


@pytest.mark.parametrize("mode", ["swap", "train"])
@pytest.mark.parametrize("ramp", [None, "index", "turns"])
@pytest.mark.parametrize("length", ["train", "test"])
@pytest.mark.parametrize("front", [True, False])
def test_yarns_ramp_and_its_length_are_set_apart_from_the_way_it_is_used(mode, ramp, length, front):
    settings = ExperimentSettings(
        encodings=("yarn", "resonance-yarn"), yarn=mode, yarn_ramp=ramp, yarn_length=length, front_token=front
    )
    counted = int(front and mode == "swap")
    expected = YaRN(
        64,
        factor=(101 + counted) / (64 + counted),
        original_length=(64 if length == "train" else 101) + counted,
        beta_fast=2.0,
        ramp=ramp or {"swap": "index", "train": "turns"}[mode],
        blend={"swap": "frequency", "train": "wavelength"}[mode],
    )
    assert settings.tested_encoding("yarn", 101) == expected
    assert settings.tested_encoding("resonance-yarn", 101) == Resonance(expected)


def test_a_model_trained_with_yarn_is_trained_in_the_form_of_the_longest_test():
    settings = ExperimentSettings(encodings=("yarn",), yarn="train", yarn_length="test", test_lengths=(128, 96))
    assert settings.trained_encoding("yarn") == settings.tested_encoding("yarn", 128)
    assert settings.trained_encoding("yarn").original_length == 128


def test_a_batch_size_replaces_the_presets_if_it_is_given():
    asked = ExperimentSettings(batch_size=16)
    assert (ExperimentSettings().train_settings().batch_size, asked.train_settings().batch_size) == (128, 16)
    assert asked.train_settings() == replace(ExperimentSettings().train_settings(), batch_size=16)


def test_dropout_replaces_the_presets_if_it_is_given():
    assert ExperimentSettings(preset="paper").model("rope").dropout == 0.1
    assert ExperimentSettings(preset="paper", dropout=0.0).model("rope").dropout == 0
    assert ExperimentSettings(dropout=0.25).model("t5").dropout == 0.25


def test_scaled_scores_have_the_usual_scale_and_queries_as_large_as_keys():
    plain, scaled = (ExperimentSettings(scores=scores).model("rope") for scores in ("unscaled", "scaled"))
    assert plain.softmax_scale == 1.0
    assert scaled == replace(plain, softmax_scale=None)
    weights = [Transformer(config, seed=2).params["layers.0.attention.qkv"] for config in (plain, scaled)]
    np.testing.assert_allclose(weights[1][:, :128], 8 * weights[0][:, :128], rtol=1e-6)  # sqrt(64), in float32
    np.testing.assert_array_equal(weights[1][:, 128:], weights[0][:, 128:])


def trained(frozen, epochs, backend="numpy", decay=0.5):
    """A model after training, and its initial weights; an epoch is one step."""
    model = Transformer(SIZES, seed=1, backend=backend)
    start = {name: weight.copy() for name, weight in model.params.items()}
    data = make_splits("cot", seed=1, train=13, validation=3, test=1, train_length=11, test_length=13, modulus=5)
    settings = TrainSettings(epochs=epochs, learning_rate=1e-2, weight_decay=decay, frozen=frozen)
    train(model, RoPE(6), data, settings, seed=1)
    return model.params, start


@pytest.mark.parametrize("backend", BACKENDS)
def test_frozen_weights_keep_every_bit_and_the_others_learn(backend):
    after, start = trained((FEED_FORWARD,), 3, backend)
    for name, weight in after.items():
        assert same_bits(weight, start[name]) == ("feed_forward" in name), name
    assert sum("feed_forward" in name for name in after) == 6  # gain, in and out of two layers


def test_the_first_step_of_the_others_does_not_depend_on_what_is_frozen():
    # They see the same gradients once, and other ones as soon as the unfrozen model's feed-forward has moved.
    frozen, start = trained((FEED_FORWARD,), 1)
    usual, _ = trained((), 1)
    for name, weight in frozen.items():
        assert same_bits(weight, start[name] if "feed_forward" in name else usual[name]), name
    assert not same_bits(trained((FEED_FORWARD,), 2)[0]["embedding"], trained((), 2)[0]["embedding"])


def test_several_patterns_freeze_all_that_fit_one_of_them():
    after, start = trained(("final.gain", "layers.1.*", "*.gain"), 2)
    kept = {name for name, weight in after.items() if same_bits(weight, start[name])}
    assert kept == {name for name in after if name.startswith("layers.1.") or name.endswith("gain")}


def test_a_pattern_that_fits_no_weight_is_refused():
    with pytest.raises(ValueError, match=r"train: frozen is 'block\.\*', expected a pattern of weights of the model"):
        trained((FEED_FORWARD, "block.*"), 1)


def test_the_setting_frozen_reaches_the_training():
    assert ExperimentSettings().train_settings().frozen == ()
    settings = ExperimentSettings(frozen="feed-forward", backend="numpy", **QUICK)
    prepared = experiment.prepare(settings, "cot", 2, "rope")
    model = Transformer(settings.model("rope"), seed=2, backend="numpy")
    train(prepared.model, prepared.encoding, prepared.dataset, prepared.train_settings, seed=2)
    kept = {name for name in model.params if same_bits(model.params[name], prepared.model.params[name])}
    assert kept == {name for name in model.params if "feed_forward" in name}


def test_a_training_that_validation_selects_ends_with_its_best_epoch_within_the_training_length():
    assert ExperimentSettings().train_settings().select == "none"
    quick = QUICK | {"epochs": 5, "test_sequences": 7}
    settings = ExperimentSettings(select="validation", learning_rate=3e-2, backend="numpy", **quick)
    prepared, after = experiment.prepare(settings, "cot", 2, "rope"), []
    parts = prepared.model, prepared.encoding, prepared.dataset, prepared.train_settings
    history = train(*parts, seed=2, on_epoch=lambda _: after.append(prepared.model.flat_params.copy()))
    best = int(np.argmax(history.id_accuracy))
    assert best < 4
    assert best != int(np.argmax(history.ood_accuracy))
    assert [same_bits(prepared.model.flat_params, weights) for weights in after] == [i == best for i in range(5)]


@pytest.mark.parametrize(
    "settings", [{"yarn_ramp": "turns"}, {"dropout": 0.3}, {"frozen": "feed-forward"}, {"scores": "scaled"}]
)
def test_each_setting_changes_a_row(settings):
    rows = []
    for asked in ({}, settings):
        experiment_settings = ExperimentSettings(encodings=("yarn",), train_length=16, test_lengths=(64,))
        both = replace(experiment_settings, **QUICK, **asked)
        rows.append(experiment.train_and_test(both, "cot", 2, "rope", Silent())[0])
    told = ("tested_with", "curves")
    assert [rows[0][key] for key in told] != [rows[1][key] for key in told]


def test_the_rows_of_a_trained_model_lack_nothing_but_what_its_training_knows():
    settings = ExperimentSettings(encodings=("rope", "yarn"), test_lengths=(70, 90), **QUICK)
    prepared = experiment.prepare(settings, "cot", 2, "rope")
    assert prepared.steps == 3
    history = train(prepared.model, prepared.encoding, prepared.dataset, prepared.train_settings, seed=2)
    found = experiment.test_rows(settings, "cot", 2, "rope", prepared.model, prepared.dataset)
    whole = experiment.train_and_test(settings, "cot", 2, "rope", Silent())
    assert [(row["encoding"], row["test_length"]) for row in found] == [
        *(("rope", 70), ("rope", 90), ("yarn", 70), ("yarn", 90))
    ]
    assert whole[0]["curves"] == experiment.curves(history)
    for one, other in zip(found, whole, strict=True):
        assert one == {k: v for k, v in other.items() if k not in ("seconds", "step_seconds", "curves")}
        assert set(other) - set(one) == {"seconds", "step_seconds", "curves"}


def test_the_flat_settings_are_all_that_is_one_value():
    settings = ExperimentSettings(frozen="feed-forward", dropout=0.2, yarn_ramp="turns")
    flat = settings.flat()
    assert json.loads(json.dumps(flat)) == flat
    assert set(asdict(settings)) - set(flat) == {"tasks", "encodings", "seeds", "test_lengths"}
    assert ExperimentSettings(**flat) == settings


def test_results_hold_the_model_that_was_asked_for():
    found = experiment.results(ExperimentSettings(scores="scaled", dropout=0.2), [], "refrope", complete=True)
    assert found["settings"]["model"]["softmax_scale"] is None
    assert found["settings"]["model"]["dropout"] == found["settings"]["dropout"] == 0.2
    assert found["settings"]["train"]["frozen"] == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--yarn-ramp", "turn"], "unknown yarn_ramp 'turn'; did you mean 'turns'?"),
        (["--yarn-length", "tests"], "unknown yarn_length 'tests'; did you mean 'test'?"),
        (["--frozen", "feedforward"], "unknown frozen 'feedforward'; did you mean 'feed-forward'?"),
        (["--select", "validate"], "unknown select 'validate'; did you mean 'validation'?"),
        (["--scores", "scale"], "unknown scores 'scale'; did you mean 'scaled'?"),
        (["--dropout", "1"], "dropout is 1.0, expected a number in [0, 1)"),
        (["--dropout", "-0.1"], "dropout is -0.1, expected a number in [0, 1)"),
        (["--dropout", "nan"], "dropout is nan, expected a number in [0, 1)"),
    ],
)
def test_bad_settings_are_one_line_before_any_training(arguments, message, tmp_path, capsys):
    assert cli.main(["posgen", *arguments, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_every_setting_of_the_papers_code_by_options(tmp_path):
    arguments = "--encodings yarn --recipe official --yarn-length test --yarn-ramp index --frozen feed-forward"
    quick = "--dropout 0.1 --scores unscaled --epochs 1 --train-sequences 16 --test-sequences 2"
    assert cli.main(["posgen", *arguments.split(), *quick.split(), "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert "original_length=257" in results["runs"][0]["tested_with"]
    assert f"factor={257 / 65!r}" in results["runs"][0]["tested_with"]
    asked = {
        "yarn_length": "test",
        "yarn_ramp": "index",
        "frozen": "feed-forward",
        "dropout": 0.1,
        "recipe": "official",
    }
    assert {name: results["settings"][name] for name in asked} == asked
    assert results["settings"]["train"]["frozen"] == [FEED_FORWARD]

"""What all trainings share: they stop, go on, freeze weights and add up gradients without changing a bit."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from conftest import BACKENDS, same_bits

from refrope import RoPE, Transformer, TransformerConfig, checkpoint, kernels, train_step
from refrope.lm.training.windows import WindowTraining
from refrope.nn.optim import AdamW, OneCycle
from refrope.randomness import bit_source, bounded_integers
from refrope.sweep.running import state_from, state_to
from refrope.training import Plan

CONFIG = TransformerConfig(
    vocabulary=23, d_model=20, heads=2, kv_heads=1, head_dim=6, d_ff=28, layers=2, dropout=0.1, softmax_scale=None,
    feed_forward="swiglu", head_scale=1.0,
)  # fmt: skip
TOKENS = bounded_integers(bit_source(3, "tokens"), 23, 500)
FROZEN = ("layers.*.feed_forward.*", "embedding")
LENGTH, BATCH = 11, 7


def training(frozen=(), backend="numpy", seed=5, model=None, **plan):
    """Three epochs of two steps on windows of 11 tokens."""
    model = model or Transformer(CONFIG, seed=1, backend=backend)
    plan = Plan(3, 2, 1e-2, frozen=frozen, **plan)
    return WindowTraining(model, RoPE(6), TOKENS, plan, length=LENGTH, batch_size=BATCH, seed=seed, watched=WATCHED)


WATCHED = np.stack([TOKENS[i : i + LENGTH + 1] for i in (0, 50, 100)])


class _Stop(Exception):
    pass


def stopped_after(steps, directory, **how):
    """A training whose state went to disk after so many steps, when it was interrupted."""
    one = training(**how)

    def on_step(loss):
        if one.step == steps:
            checkpoint.save(directory, steps, *state_to(one.state()))
            raise _Stop

    with pytest.raises(_Stop):
        one.run(on_step)
    return one


@pytest.mark.parametrize("frozen", [(), FROZEN], ids=["all", "frozen"])
@pytest.mark.parametrize("stop", range(1, 6))
def test_a_training_goes_on_from_its_checkpoint_with_the_same_bits(tmp_path, stop, frozen):
    undisturbed = training(frozen)
    history = undisturbed.run()
    stopped_after(stop, tmp_path, frozen=frozen)
    found, damaged = checkpoint.load(tmp_path)
    other = training(frozen)
    other.restore(state_from(found))
    assert damaged == []
    assert other.step == stop
    again = other.run()
    assert same_bits(other.model.flat_params, undisturbed.model.flat_params)
    assert (again.loss, again.held_out_loss) == (history.loss, history.held_out_loss)
    assert len(history.held_out_loss) == 3


@pytest.mark.parametrize("lost", ["moment1", "moment2", "order", "step"])
def test_every_part_of_the_state_decides_how_a_training_goes_on(tmp_path, lost):
    undisturbed = training()
    undisturbed.run()
    stopped_after(3, tmp_path)
    state = state_from(checkpoint.load(tmp_path)[0])
    fresh = training().state()
    setattr(state, lost, 2 if lost == "step" else getattr(fresh, lost))
    other = training()
    other.restore(state)
    other.run()
    assert not same_bits(other.model.flat_params, undisturbed.model.flat_params)


def test_a_state_of_another_model_or_of_more_steps_is_refused():
    state = training().state()
    for changed, said in (({"weights": np.zeros(5, np.float32)}, "has 5 weights"), ({"step": 7}, "and 7 steps")):
        other = copy.copy(state)
        for name, value in changed.items():
            setattr(other, name, value)
        with pytest.raises(ValueError, match=f"WindowTraining.restore: the state .*{said}"):
            training().restore(other)


def test_training_begins_with_the_weights_that_the_model_has():
    model = Transformer(CONFIG, seed=1, backend="numpy")
    model.params["final.gain"][...] = 3
    loaded = Transformer(CONFIG, seed=None, backend="numpy")
    loaded.flat_params[...] = model.flat_params
    first, second = training(model=model), training(model=loaded)
    assert first.run().loss == second.run().loss
    assert first.history.loss != training().run().loss


# ---- the epoch that is best ----


class Judged(WindowTraining):
    """A training whose second epoch is its best, or another one."""

    values = (0.2, 0.7, 0.7)

    def worths(self):
        return list(self.values[: len(self.history.held_out_loss)])


def judged(values=Judged.values, frozen=()):
    plan = Plan(3, 2, 1e-2, frozen=frozen, select="validation")
    model = Transformer(CONFIG, seed=1, backend="numpy")
    one = Judged(model, RoPE(6), TOKENS, plan, length=LENGTH, batch_size=BATCH, seed=5, watched=WATCHED)
    one.values = values
    return one


@pytest.mark.parametrize("frozen", [(), FROZEN], ids=["all", "frozen"])
@pytest.mark.parametrize(("values", "best"), [((0.2, 0.7, 0.7), 1), ((0.3, 0.2, 0.1), 0), ((0.1, 0.2, 0.3), 2)])
def test_a_training_ends_with_the_first_epoch_that_is_best_wherever_it_stops_on_the_way(tmp_path, values, best, frozen):
    after, undisturbed = [], judged(values, frozen)
    history = undisturbed.run(on_epoch=lambda _: after.append(undisturbed.model.flat_params.copy()))
    assert same_bits(undisturbed.model.flat_params, after[best])
    assert history.loss == training(frozen).run().loss  # nothing else changes
    for stop in range(1, 7):
        one = judged(values, frozen)

        def on_step(loss, one=one, stop=stop):
            if one.step == stop:
                checkpoint.save(tmp_path, stop, *state_to(one.state()))
                raise _Stop

        with pytest.raises(_Stop):
            one.run(on_step)
        other = judged(values, frozen)
        other.restore(state_from(checkpoint.load(tmp_path)[0]))
        other.run()
        assert same_bits(other.model.flat_params, undisturbed.model.flat_params)


# ---- frozen weights ----


@pytest.mark.parametrize("backend", BACKENDS)
def test_frozen_weights_keep_their_bits_and_the_others_train_as_if_they_were_put_back(backend):
    one = training(FROZEN, backend)
    start = one.model.flat_params.copy()
    one.run()
    # The slow way: AdamW on all weights, those that are frozen written back after every step.
    model, optimizer = Transformer(CONFIG, seed=1, backend=backend), AdamW(start.size)
    other, schedule = training(FROZEN, backend), OneCycle(1e-2, 6)
    views = CONFIG.views(start)
    for epoch in range(3):
        for i, rows in enumerate(other.epoch_batches()):
            step = 2 * epoch + i
            batch = other.batch_of(rows)
            seed = train_step_seed(step)
            train_step.train_step(model, optimizer, *batch[:4], *schedule.at(step), dropout_seed=seed)
            for name, weight in model.params.items():
                if name == "embedding" or "feed_forward" in name:
                    weight[...] = views[name]
    assert same_bits(one.model.flat_params, model.flat_params)
    same = {name for name, weight in one.model.params.items() if same_bits(weight, views[name])}
    assert same == {name for name in views if name == "embedding" or "feed_forward" in name}


def train_step_seed(step):
    from refrope.nn.dropout import site_seed

    return site_seed(5, step)


def test_a_checkpoint_holds_nothing_of_frozen_weights(tmp_path):
    stopped_after(1, tmp_path, frozen=FROZEN)
    arrays = checkpoint.load(tmp_path)[0].arrays
    kept = sum(
        weight.size
        for name, weight in CONFIG.views(np.empty(CONFIG.size())).items()
        if name != "embedding" and "feed_forward" not in name
    )
    assert 0 < kept < CONFIG.size() / 2
    assert {name: arrays[name].shape for name in ("weights", "moment1", "moment2")} == dict.fromkeys(
        ("weights", "moment1", "moment2"), (kept,)
    )


def test_a_state_that_has_frozen_weights_too_serves():
    one, other = training(FROZEN), training(FROZEN)
    state = one.state()
    for name in ("weights", "moment1", "moment2"):
        whole = np.zeros(CONFIG.size(), np.float32)
        one._optimizer.put_trained(whole, getattr(state, name))
        setattr(state, name, whole)
    other.restore(state)
    assert other.run().loss == training(FROZEN).run().loss


@pytest.mark.parametrize(("frozen", "said"), [(("layers.7.*",), "a pattern of weights"), (("*",), "leave weights")])
def test_patterns_that_fit_no_weight_or_all_are_refused(frozen, said):
    with pytest.raises(ValueError, match=f"train: frozen is .*expected .*{said}"):
        training(frozen)


# ---- parts of a batch ----


@pytest.mark.parametrize("frozen", [(), FROZEN], ids=["all", "frozen"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_in_turns_have_the_bits_of_gradients_side_by_side(monkeypatch, backend, frozen):
    pytest.importorskip("threadpoolctl")
    whole = training(frozen, backend, part_tokens=LENGTH)
    whole.run()
    assert len(whole._optimizer.gradients(1).base) == BATCH  # one for each part, all at the same time
    monkeypatch.setattr(train_step, "GRADIENT_BYTES", 0)
    before = kernels.get_num_threads()
    try:
        for threads in (1, 2, 3):
            kernels.set_num_threads(threads)
            other = training(frozen, backend, part_tokens=LENGTH)
            other.run()
            assert same_bits(other.model.flat_params, whole.model.flat_params)
            assert other.history.loss == whole.history.loss
            assert len(other._optimizer.gradients(1).base) == threads + 1
    finally:
        kernels.set_num_threads(before)


def test_smaller_parts_change_the_loss_by_rounding_alone():
    losses = [training(part_tokens=tokens).run().loss for tokens in (LENGTH, 3 * LENGTH, None)]
    assert losses[0] == pytest.approx(losses[2], rel=1e-5)  # float32, six steps of AdamW
    assert losses[1] == pytest.approx(losses[2], rel=1e-5)


def test_a_loss_that_is_no_number_ends_a_training_before_the_weights_change(monkeypatch):
    for bytes_ in (train_step.GRADIENT_BYTES, 0):
        monkeypatch.setattr(train_step, "GRADIENT_BYTES", bytes_)
        one = training(part_tokens=LENGTH)
        one.model.params["layers.1.attention.out"][2, 3] = np.nan
        before = one.model.flat_params.copy()
        with pytest.raises(FloatingPointError, match="the loss is nan at step 0"):
            one.run()
        assert same_bits(one.model.flat_params, before)


# ---- plans and windows ----


@pytest.mark.parametrize(
    ("name", "value"), [("epochs", 0), ("steps_per_epoch", 1.5), ("learning_rate", 0.0), ("part_tokens", 0)]
)
def test_plans_are_checked(name, value):
    with pytest.raises(ValueError, match=f"Plan: {name} is {value}"):
        Plan(**{"epochs": 1, "steps_per_epoch": 1, "learning_rate": 1e-3, name: value})


def test_a_selection_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="unknown select 'validate'; did you mean 'validation'"):
        Plan(1, 1, 1e-3, select="validate")


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (TOKENS[:LENGTH], r"int64\(11,\), expected at least 12 integers"),
        (TOKENS.astype(float), "float64"),
        (TOKENS[None], "expected at least 12"),
        (np.full(99, 23), "tokens hold 23"),
        (np.full(99, -1), "tokens hold -1"),
    ],
)
def test_tokens_that_no_window_fits_into_are_refused(tokens, said):
    with pytest.raises(ValueError, match=f"WindowTraining: .*{said}"):
        WindowTraining(
            *(Transformer(CONFIG, seed=1, backend="numpy"), None, tokens, Plan(1, 1, 1e-3)),
            length=LENGTH,
            batch_size=1,
            seed=1,
        )


def test_windows_are_drawn_from_the_whole_line_and_differ_by_seed():
    one = WindowTraining(
        *(Transformer(CONFIG, seed=1, backend="numpy"), None, TOKENS[: LENGTH + 4], Plan(1, 40, 1e-3)),
        length=LENGTH,
        batch_size=5,
        seed=1,
    )
    starts = np.concatenate(one.epoch_batches())
    assert sorted(set(starts.tolist())) == [0, 1, 2, 3]  # the last window ends with the last token
    batch = one.batch_of(np.array([3, 0]))
    assert np.array_equal(batch.inputs[1], TOKENS[:LENGTH])
    assert np.array_equal(batch.targets[0], TOKENS[4 : 4 + LENGTH])
    assert training(seed=5).run().loss != training(seed=6).run().loss

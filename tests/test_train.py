"""Training works, is repeatable to the bit, and says so when it breaks."""

import math

import numpy as np
import pytest
from conftest import BACKENDS, same_bits

from refrope import Resonance, RoPE, Transformer, TransformerConfig, evaluate, kernels
from refrope.evaluate import accuracy_by_position, split_accuracy
from refrope.nn.optim import AdamW
from refrope.posgen import inputs_and_targets, make_splits
from refrope.train import TrainSettings, train, train_step

CONFIG = TransformerConfig(d_model=48, heads=2, head_dim=16, d_ff=96)
DROPPING = TransformerConfig(d_model=48, heads=2, head_dim=16, d_ff=96, dropout=0.1)
# Chance is ln 17 = 2.83 nats. With modulus 3, where it is ln 3 = 1.10, this model has learnt the rule by then.
LEARNT = 0.6


def small_dataset(sizes=(200, 40, 40)):
    sizes = dict(zip(("train", "validation", "test"), sizes, strict=True))
    return make_splits("recursive", seed=1, **sizes, train_length=20, test_length=40, j=1, k=1)


def run(backend, config=CONFIG, epochs=2, encoding=None):
    model = Transformer(config, seed=1, backend=backend)
    settings = TrainSettings(epochs=epochs, batch_size=64)
    data = make_splits("recursive", seed=1, train=300, validation=40, test=40, train_length=20, test_length=40)
    history = train(model, encoding or RoPE(16), data, settings, seed=1)
    return model, history


@pytest.mark.parametrize("backend", BACKENDS)
def test_training_learns_the_rule(backend):
    # Nine prefixes of two tokens mod 3 are all there is; the model sees seven of them, many times.
    data = make_splits(
        "recursive", seed=1, train=7, validation=1, test=1, train_length=24, test_length=32, modulus=3, j=1, k=1
    )
    config = TransformerConfig(vocabulary=4, d_model=32, heads=2, head_dim=16, d_ff=64, layers=1)
    model = Transformer(config, seed=1, backend=backend)
    losses = []
    history = train(model, RoPE(16), data, TrainSettings(epochs=60, learning_rate=1e-2), seed=1, on_step=losses.append)
    assert abs(losses[0] - math.log(3)) < 3
    assert losses[-1] < LEARNT
    assert history.loss[-1] < history.loss[0]


@pytest.mark.parametrize("config", [CONFIG, DROPPING], ids=["plain", "dropout"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_training_twice_gives_the_same_bits(backend, config):
    first, second = run(backend, config), run(backend, config)
    assert same_bits(first[0].flat_params, second[0].flat_params)
    assert first[1].loss == second[1].loss


@pytest.mark.skipif("c" not in BACKENDS, reason="the C kernels are not built")
def test_backends_train_alike():
    (slow, slow_history), (fast, fast_history) = run("numpy"), run("c")
    # float32 rounding, through ten steps of AdamW, which divides by the size of the gradient.
    assert np.allclose(slow_history.loss, fast_history.loss, rtol=1e-4)
    assert np.abs(slow.flat_params - fast.flat_params).max() < 1e-2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("config", [CONFIG, DROPPING], ids=["plain", "dropout"])
def test_training_has_the_same_bits_for_any_number_of_threads(backend, config, monkeypatch):
    pytest.importorskip("threadpoolctl")
    monkeypatch.setattr(evaluate, "PART_TOKENS", 100)  # 5 of 20 tokens: several parts in a batch
    threads, results = kernels.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            kernels.set_num_threads(n)
            model, history = run(backend, config)
            results.append((model.flat_params, history.loss, history.ood_accuracy))
    finally:
        kernels.set_num_threads(threads)
    for weights, *curves in results[1:]:
        assert same_bits(weights, results[0][0])
        assert curves == list(results[0][1:])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_in_parts_has_the_gradient_and_the_masks_of_the_whole(backend, monkeypatch):
    batch = inputs_and_targets(small_dataset().train[:13], j=1, k=1)
    tables = RoPE(16).cos_sin(np.arange(20), np.float64)
    results = []
    for tokens in (1, 60, 10_000):
        monkeypatch.setattr(evaluate, "PART_TOKENS", tokens)
        model = Transformer(DROPPING, seed=1, backend=backend, dtype=np.float64)
        optimizer = AdamW(model.flat_params.size, np.float64)
        data = (batch.inputs, batch.targets, batch.loss_mask, tables)
        loss = train_step(model, optimizer, *data, 1e-3, 0.9, dropout_seed=3)
        gradients = optimizer.gradients(-(-13 // max(1, tokens // 20)))
        results.append((loss, gradients.sum(axis=0)))
    assert np.abs(results[0][1]).max() > 0.01
    for loss, gradient in results[:2]:
        assert loss == pytest.approx(results[2][0], rel=1e-12)
        assert np.abs(gradient - results[2][1]).max() < 1e-12


def test_dropout_changes_training_and_not_testing():
    assert run("numpy", DROPPING)[1].loss != run("numpy")[1].loss
    model, _ = run("numpy", DROPPING)
    data = small_dataset()
    twice = [accuracy_by_position(model, RoPE(16), data, data.test) for _ in range(2)]
    assert np.array_equal(*twice, equal_nan=True)


def test_the_loss_counts_generated_tokens_only():
    data = small_dataset()
    batch = inputs_and_targets(data.train[:8], j=1, k=1)
    tables = RoPE(16).cos_sin(np.arange(20))
    gradients = []
    for change in (0, 1):
        targets = batch.targets.copy()
        targets[:, :2] = (targets[:, :2] + change) % 17  # the prefix cannot be predicted
        model = Transformer(CONFIG, seed=1, backend="numpy")
        optimizer = AdamW(model.flat_params.size)
        train_step(model, optimizer, batch.inputs, targets, batch.loss_mask, tables, 1e-3, 0.9)
        gradients.append(optimizer.gradients(1).copy())
    assert np.array_equal(*gradients)


def test_accuracy_is_counted_at_the_tokens_own_index():
    data = small_dataset()

    class Oracle:
        """Knows the rule, and errs at every third token."""

        dtype = np.dtype(np.float32)

        def replicas(self, count):
            return [self] * count

        def forward(self, inputs, tables, positions):
            known = {tuple(row[1:]): row for row in np.pad(data.test, ((0, 0), (1, 0)), constant_values=17)[:, :-1]}
            logits = np.zeros((*inputs.shape, 18), np.float32)
            for i, row in enumerate(inputs):
                assert tuple(row[1:]) in known
                answers = data.test[[tuple(t) == tuple(row[1:]) for t in data.test[:, :-1].tolist()]][0]
                for t, answer in enumerate(answers):
                    logits[i, t, (answer + (t % 3 == 0)) % 17] = 1
            return logits

    accuracy = accuracy_by_position(Oracle(), RoPE(16), data, data.test)
    assert np.isnan(accuracy[:2]).all()
    assert np.array_equal(accuracy[2:], np.arange(2, 40) % 3 != 0)
    inside, beyond = split_accuracy(accuracy, 20)
    assert inside == np.mean(np.arange(2, 20) % 3 != 0)
    assert beyond == np.mean(np.arange(20, 40) % 3 != 0)


def test_accuracy_does_not_depend_on_how_many_are_tested_together():
    model, _ = run("numpy")
    data = small_dataset(sizes=(1, 1, 150))
    together = accuracy_by_position(model, Resonance(RoPE(16)), data, data.test)
    halves = [accuracy_by_position(model, Resonance(RoPE(16)), data, part) for part in np.split(data.test, 2)]
    assert np.allclose(np.mean(halves, axis=0), together, equal_nan=True, atol=0.02)


def test_diverging_training_is_an_error_and_not_a_result():
    model = Transformer(CONFIG, seed=1, backend="numpy")
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match="try a smaller learning rate"):
        train(model, RoPE(16), small_dataset(), TrainSettings(epochs=2, learning_rate=1e30), seed=1)


def test_nan_weights_are_an_error_in_training_and_testing():
    model = Transformer(CONFIG, seed=1, backend="numpy")
    model.params["layers.0.attention.qkv"][3, 4] = np.nan
    data = small_dataset()
    with pytest.raises(FloatingPointError, match="logits are NaN"):
        accuracy_by_position(model, RoPE(16), data, data.test)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0"):
        train(model, RoPE(16), data, TrainSettings(epochs=1), seed=1)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="TrainSettings: epochs is 0"):
        TrainSettings(epochs=0)
    with pytest.raises(ValueError, match="TrainSettings: learning_rate is -1"):
        TrainSettings(epochs=1, learning_rate=-1)

"""The whole transformer and its training, NumPy and C, against the model of `plain_torch` and PyTorch's AdamW."""

import math
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from peers.comparison import same, same_gradient
from peers.plain_torch import DROPOUT_STEPS, Model
from refrope import Resonance, RoPE, Transformer, TransformerConfig, YaRN, evaluate
from refrope.evaluate import stream_logits
from refrope.nn.dropout import random_bits, site_seed
from refrope.nn.optim import AdamW
from refrope.posgen import make_splits
from refrope.randomness import bit_source, permutation
from refrope.train import TrainSettings, train, train_step

BACKENDS = ["numpy", "c"]
both = pytest.mark.parametrize("backend", BACKENDS)

RATE = 1e-3

TINY = TransformerConfig(vocabulary=18, d_model=22, heads=3, head_dim=10, d_ff=37, layers=2)
DROPPING = TransformerConfig(vocabulary=18, d_model=22, heads=3, head_dim=10, d_ff=37, layers=2, dropout=0.1)


@st.composite
def configs(draw):
    """Models of all sizes, with dropout and without.

    The few features of a narrow model may cancel, and its norms then divide by about sqrt(eps): with 1e-6, weights that
    move by a unit in the last place move a logit by 1e-10. So narrow models have an eps of 1.
    """
    d_model = draw(st.sampled_from([1, 2, 7, 8, 13, 16, 31, 33]))
    return TransformerConfig(
        vocabulary=draw(st.sampled_from([2, 3, 11, 18, 67])),
        d_model=d_model,
        heads=draw(st.integers(1, 4)),
        head_dim=draw(st.sampled_from([2, 4, 6, 14, 16, 22])),
        d_ff=draw(st.sampled_from([1, 5, 8, 17, 41])),
        layers=draw(st.integers(1, 3)),
        dropout=draw(st.sampled_from([0.0, 0.0, 0.1, 0.5])),
        eps=1.0 if d_model < 7 else draw(st.sampled_from([1e-6, 1e-3])),
        softmax_scale=draw(st.sampled_from([1.0, None, 0.3])),
    )


def made(config, backend, seed=1):
    """A model whose gains are not all one."""
    model = Transformer(config, seed=seed, backend=backend, dtype=np.float64)
    for name, weight in model.params.items():
        if name.endswith("gain"):
            weight[...] = np.random.default_rng(len(name)).uniform(0.5, 1.5, weight.shape)
    return model


def rope_turns(head_dim, length, *, resonance=False):
    """e^(i angle) of every token and pair, from the formulas (Su et al. 2021, Eq. 15; Wang et al. 2024, Eq. 4)."""
    angle = 10_000.0 ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    if resonance:
        angle = 2 * math.pi / torch.round(2 * math.pi / angle)
    return torch.polar(torch.ones(length, len(angle), dtype=torch.float64), torch.arange(length)[:, None] * angle)


def rotations(kind, head_dim, length):
    """Our tables, and the other side's complex numbers."""
    places = np.arange(length)
    if kind == "partial":
        some = max(2, head_dim // 4 * 2)
        return RoPE(head_dim, rotary_dim=some).cos_sin(places, np.float64), rope_turns(some, length)
    if kind == "yarn":  # its numbers are given: that it multiplies lengths by an attention factor is what is new
        cos, sin = YaRN(head_dim, factor=8.0, original_length=16).cos_sin(places, np.float64)
        return (cos, sin), torch.complex(torch.tensor(cos), torch.tensor(sin))
    encoding = Resonance(RoPE(head_dim)) if kind == "resonance" else RoPE(head_dim)
    return encoding.cos_sin(places, np.float64), rope_turns(head_dim, length, resonance=kind == "resonance")


def dropout_masks(model, seed, batch, length):
    """What dropout leaves at each place of the model: givens for the other side, since no two libraries draw alike."""
    c, masks = model.config, {}
    if seed is None or not c.dropout:
        return None
    least = round(c.dropout * DROPOUT_STEPS)
    for number, site in enumerate(model._sites):
        if site.endswith("attention.weights"):
            slices, shape = batch * c.heads, (batch, c.heads, length, length)
        else:
            slices, shape = 1, (batch, length, c.d_ff if site.endswith("feed_forward.in") else c.d_model)
        counters = np.arange(math.prod(shape) // slices, dtype=np.uint32)
        bits = [random_bits(site_seed(seed, number), s, counters) for s in range(slices)]
        masks[site] = torch.tensor(np.reshape(bits, shape) >= least)
    return masks


def mean_loss(logits, targets, marked):
    """Cross-entropy over the tokens that are marked (T,)."""
    return F.cross_entropy(logits[:, marked].flatten(0, 1), targets[:, marked].flatten())


@contextmanager
def parts_of(tokens):
    """Let evaluation and training work on about that many tokens at a time."""
    before, evaluate.PART_TOKENS = evaluate.PART_TOKENS, tokens
    try:
        yield
    finally:
        evaluate.PART_TOKENS = before


@both
@given(
    configs(), st.sampled_from([1, 2, 5]), st.sampled_from([1, 2, 7, 17, 31]) | st.integers(1, 70),
    st.sampled_from(["rope", "resonance", "partial", "yarn"]), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_logits_loss_and_every_gradient_of_any_model(backend, config, batch, length, kind, seed):
    generator = np.random.default_rng(seed)
    tokens, targets = generator.integers(0, config.vocabulary, (2, batch, length))
    marked = np.arange(length) >= length // 3
    model, dropout_seed = made(config, backend, seed), site_seed(seed)
    tables, turns = rotations(kind, config.head_dim, length)

    other = Model(config, model.params)
    expected = other.logits(torch.tensor(tokens), turns, masks=dropout_masks(model, dropout_seed, batch, length))
    expected_loss = mean_loss(expected, torch.tensor(targets), marked)
    expected_loss.backward()

    logits = model.forward(tokens, tables, dropout_seed=dropout_seed, keep=True)
    same(logits, expected)
    answers, counted = targets.ravel(), np.broadcast_to(marked, targets.shape).ravel().astype(float)
    loss, probabilities = model.ops.cross_entropy_forward(logits.reshape(-1, config.vocabulary), answers, counted)
    same(np.float64(loss), expected_loss)
    gradients = model.backward(model.ops.cross_entropy_backward(probabilities, answers, counted))
    assert set(gradients) == set(other.weights)
    for name, gradient in gradients.items():
        same_gradient(gradient, other.weights[name].grad)


@both
@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_a_text_read_in_pieces_has_the_logits_of_the_whole(backend, chunk):
    model, tokens = made(TINY, backend), np.random.default_rng(chunk).integers(0, 18, 97)
    expected = Model(TINY, model.params).logits(torch.tensor(tokens[None]), rope_turns(TINY.head_dim, 97))
    pieces = [logits.copy() for logits in stream_logits(model, RoPE(TINY.head_dim), tokens, chunk=chunk)]
    assert len(pieces) == -(-97 // chunk)
    same(np.concatenate(pieces), expected[0])


def batches():
    """PosGen sequences of 23 tokens, of which the first 4 are drawn and the others follow from them."""
    data = make_splits("recursive", seed=2, train=29, validation=3, test=3, train_length=23, test_length=31)
    front = np.full((29, 1), 17)
    inputs = torch.tensor(np.concatenate([front, data.train[:, :-1]], axis=1))
    return data, SimpleNamespace(inputs=inputs, targets=torch.tensor(data.train), marked=np.arange(23) >= 4)


@both
@pytest.mark.parametrize("part_tokens", [1, 60, 10_000])
@pytest.mark.parametrize("config", [TINY, DROPPING], ids=["plain", "dropout"])
def test_the_gradient_of_a_batch_in_parts_is_that_of_the_whole(backend, config, part_tokens):
    _, given_batch = batches()
    model, dropout_seed = made(config, backend), 77
    other, turns = Model(config, model.params), rope_turns(config.head_dim, 23)
    masks = dropout_masks(model, dropout_seed, 29, 23)
    expected = mean_loss(other.logits(given_batch.inputs, turns, masks=masks), given_batch.targets, given_batch.marked)
    expected.backward()
    optimizer = AdamW(model.flat_params.size, np.float64)
    tables = RoPE(config.head_dim).cos_sin(np.arange(23), np.float64)
    arrays = (given_batch.inputs.numpy(), given_batch.targets.numpy(), given_batch.marked)
    with parts_of(part_tokens):
        loss = train_step(model, optimizer, *arrays, tables, RATE, 0.9, dropout_seed=dropout_seed)
        parts = len(evaluate.sequence_parts(29, 23))
    assert parts == {1: 29, 60: 15, 10_000: 1}[part_tokens]
    same(np.float64(loss), expected)
    for name, gradient in config.views(optimizer.gradients(parts).sum(axis=0)).items():
        same_gradient(gradient, other.weights[name].grad)


@both
@pytest.mark.parametrize("kind", ["rope", "resonance"])
@pytest.mark.parametrize("config", [TINY, DROPPING], ids=["plain", "dropout"])
def test_training_takes_the_same_way(backend, config, kind):
    """Three epochs of three batches: schedule, loss on generated tokens, AdamW with weight decay, in parts."""
    data, everything = batches()
    model, seed = made(config, backend), 5
    start = model.flat_params.copy()
    other, losses = Model(config, model.params), []
    parameters = [other.weights[name] for name in model.params]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=9, pct_start=0.3)
    turns = rope_turns(config.head_dim, 23, resonance=kind == "resonance")
    source = bit_source(seed, "order of training sequences")
    for _ in range(3):
        for rows in torch.tensor(permutation(source, 29)).split(11):
            masks = dropout_masks(model, site_seed(seed, len(losses)), len(rows), 23)
            logits = other.logits(everything.inputs[rows], turns, masks=masks)
            loss = mean_loss(logits, everything.targets[rows], everything.marked)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            if len(losses) < 9:
                schedule.step()

    encoding = Resonance(RoPE(config.head_dim)) if kind == "resonance" else RoPE(config.head_dim)
    settings = TrainSettings(epochs=3, batch_size=11, learning_rate=RATE, warmup=0.3, watched=2)
    found = []
    with parts_of(60):
        train(model, encoding, data, settings, seed=seed, on_step=found.append)
    assert np.abs(model.flat_params - start).max() > RATE
    same(np.array(found), np.array(losses))
    for name, weight in model.params.items():
        same(weight, other.weights[name])

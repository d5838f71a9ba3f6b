"""Attention by distance and by role: against the weights of a model, summed pair by pair in plain Python."""

import numpy as np
import pytest
from rules_standins import dataset

from refrope import RoPE, Transformer, TransformerConfig
from refrope.encodings import ReRoPE
from refrope.evaluate import reading
from refrope.posgen import TASKS, far_start
from refrope.rules.attention import attention, roles
from refrope.rules.subject import Subject

SMALL = TransformerConfig(d_model=10, heads=3, head_dim=6, d_ff=14, layers=2)
# Sums of a few hundred float64 weights in another order.
ROUNDING = 1e-12


def asked(task, *, front_token=True, encoding=None):
    model = Transformer(SMALL, seed=1, backend="numpy", dtype=np.float64)
    model.params["layers.0.attention.qkv"][...] *= 5  # weights far from equal
    return Subject(model, encoding or RoPE(6), dataset(task, train_length=13, test_length=29), front_token=front_token)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("front_token", [True, False])
def test_shares_and_distances_are_sums_of_the_models_weights(task, front_token):
    subject = asked(task, front_token=front_token)
    x, front = subject.dataset.test[:5], int(front_token)
    found = attention(subject, x)
    read = reading(subject.model, subject.encoding, subject.dataset, x, front_token=front_token)
    subject.model.forward(read.batch.inputs, read.tables, keep=True)
    weights = [subject.model.attention_weights(layer) for layer in range(2)]
    assert [(h.layer, h.head, h.where) for h in found] == [
        (layer, head, where) for where in ("within", "beyond") for layer in range(2) for head in range(3)
    ]
    lag = 5 if task == "recursive" else 4
    for h in found:
        shares, by_distance = {}, {}
        for step in range(13) if h.where == "within" else range(13, 29):
            names = {step - 1: "x_{l-1}", step - 2: "x_{l-2}", step - 3: "x_{l-3}", step - lag: f"x_{{l-{lag}}}"}
            if step < 5 or (task != "recursive" and far_start(task, step) in names):
                continue  # no shortcut yet, or the far token is one of the others
            names[far_start(task, step)] = "far"
            for row in range(5):
                query = weights[h.layer][row, h.head, step - 1 + front]
                for place in range(-front, step):
                    name = "front token" if place < 0 else names.get(place, "elsewhere")
                    shares.setdefault(name, []).append(query[place + front])
                    if place >= 0:
                        by_distance.setdefault(step - place, []).append(query[place + front])
                assert not query[step + front :].any()
        steps = len(by_distance[1])
        assert set(h.shares) == set(shares)
        for name, values in shares.items():
            assert abs(h.shares[name] - sum(values) / steps) < ROUNDING
        assert abs(sum(h.shares.values()) - 1) < ROUNDING
        expected = [np.mean(by_distance[d]) if d in by_distance else np.nan for d in range(1, 30)]
        assert np.allclose(h.by_distance, expected, rtol=0, atol=ROUNDING, equal_nan=True)


def test_a_position_map_is_looked_at_as_it_attends():
    plain, mapped = (
        attention(asked("cot", encoding=e), asked("cot").dataset.test[:3]) for e in (None, ReRoPE(RoPE(6), 4))
    )
    for one, other in zip(plain, mapped, strict=True):
        assert abs(sum(other.shares.values()) - 1) < ROUNDING
        assert np.nanmax(np.abs(one.by_distance - other.by_distance)) > 1e-6


def test_a_head_that_looks_at_one_distance_is_seen_to_do_so():
    """Queries and keys of one turning pair alone: the score is highest at the distance that the query is turned by."""
    config = TransformerConfig(d_model=2, heads=1, head_dim=2, d_ff=1, layers=1, vocabulary=18)
    model = Transformer(config, seed=1, backend="numpy", dtype=np.float64)
    model.params["embedding"][...] = [1.0, 0.0]
    inv_freq = RoPE(2).inv_freq[0]
    angle = -3 * inv_freq  # R(m) q . R(n) k = |q||k| cos((m - n) inv_freq + angle): greatest where m - n is 3
    q, k = 40 * np.array([np.cos(angle), np.sin(angle)]), np.array([1.0, 0.0])
    model.params["layers.0.attention.qkv"][...] = np.array([[*q, *k, 0, 0], [0] * 6])
    subject = Subject(model, RoPE(2), dataset("cot", train_length=13, test_length=29))
    within = attention(subject, subject.dataset.test[:3])[0]
    assert within.shares["x_{l-4}"] > 0.9  # l - i = 4: three before the query's own token, x_{l-1}
    assert np.nanargmax(within.by_distance[:8]) == 3


@pytest.mark.parametrize("task", TASKS)
def test_roles_name_the_tokens_of_rule_and_shortcut(task):
    places = roles(task, 20)
    assert places["x_{l-1}"] == [19]
    assert places["x_{l-3}"] == [17]
    assert places["far"] == [far_start(task, 20)] == [{"recursive": 16, "cot": 0, "semirecursive": 8}[task]]
    assert ("x_{l-5}" if task == "recursive" else "x_{l-4}") in places
    assert len(places) == 5

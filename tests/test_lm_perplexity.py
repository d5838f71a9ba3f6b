"""Perplexity against context length."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from lm_standins import CONTEXT, transformer

from refrope import RoPE, YaRN
from refrope.lm import figures, perplexity
from refrope.lm.perplexity import TAIL, check_lengths, measure, passes, summary
from refrope.lm.progress import Silent
from refrope.lm.swapping import swapped
from refrope.nn.memory import KVCache
from refrope.randomness import bit_source, bounded_integers

OWN = RoPE(8, 500.0)
TOKENS = bounded_integers(bit_source(5, "text"), 256, 131)


def by_length(*names, factor=None):
    """What the command line makes of names."""

    def at(name, length):
        return swapped(name, OWN, CONTEXT, length, factor=factor)

    return {name: partial(at, name) for name in names}


def direct(encoding, length, model):
    """Perplexity by its definition, out of one call."""
    logits = model.forward(TOKENS[None, :length], encoding.cos_sin(np.arange(length), model.dtype))[0].astype(
        np.float64
    )
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return float(np.prod(shares[np.arange(length - 1), TOKENS[1:length]] ** (-1 / (length - 1))))


def test_each_length_has_the_perplexity_of_the_encoding_in_force_there():
    model, lengths = transformer(dtype=np.float64), [17, 64, 131]
    encodings = by_length("none", "dynamic-ntk", "yarn")
    rows = [row for part in measure(model, TOKENS, passes(encodings, lengths), chunk=29) for row in part]
    assert sorted((row["encoding"], row["tokens"]) for row in rows) == sorted(
        (name, length) for name in encodings for length in lengths
    )
    for row in rows:
        encoding = encodings[row["encoding"]](row["tokens"])
        assert row["perplexity"] == pytest.approx(direct(encoding, row["tokens"], model), rel=1e-12)
        assert row["perplexity"] == pytest.approx(np.exp(row["nats"]))
        assert row["attention_factor"] == encoding.attention_factor
        assert row["parameters"]["class"] == encoding.name


def test_lengths_share_a_pass_where_the_encoding_is_the_same():
    planned = passes(by_length("none", "yarn", "resonance"), [131, 17, 64])
    assert [(each.name, each.lengths) for each in planned] == [
        *(("none", (17, 64, 131)), ("yarn", (17, 64)), ("yarn", (131,)), ("resonance", (17, 64, 131)))
    ]
    fixed = passes(by_length("yarn", "dynamic-ntk", factor=2.0), [17, 64, 131])
    assert [(each.name, each.lengths) for each in fixed] == [
        *(("yarn", (17, 64, 131)), ("dynamic-ntk", (17,)), ("dynamic-ntk", (64,)), ("dynamic-ntk", (131,)))
    ]


def test_a_softmax_factor_is_in_the_scores():
    model = transformer(dtype=np.float64)
    encoding = YaRN(8, 500.0, factor=4.0, original_length=64, mscale=1.0, mscale_all_dim=1.0)
    assert (encoding.attention_factor, encoding.softmax_factor) == (1.0, pytest.approx((0.1 * np.log(4) + 1) ** 2))
    ((found,),) = measure(model, TOKENS, passes({"yarn": lambda length: encoding}, [131]))
    other = transformer(dtype=np.float64, softmax_scale=encoding.softmax_factor / np.sqrt(8))
    assert found["softmax_factor"] == encoding.softmax_factor
    assert found["perplexity"] == pytest.approx(direct(encoding, 131, other), rel=1e-12)
    assert abs(found["perplexity"] - direct(encoding, 131, model)) > 1e-4


def test_the_transformers_pipeline_changes_roundings_and_no_more():
    model = transformer(dtype=np.float64)
    values = [
        next(measure(model, TOKENS, passes(by_length("none"), [131]), pipeline=pipeline))[0]["perplexity"]
        for pipeline in ("exact", "transformers")
    ]
    assert values[0] != values[1]
    assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_progress_is_told_of_each_pass_and_each_token():
    shown = []

    class Told(Silent):
        def __exit__(self, *_):
            shown.append((self.title, self.total, self.done))

    planned = passes(by_length("none", "yarn"), [17, 131])
    list(measure(transformer(), TOKENS, planned, chunk=50, progress=Told))
    assert shown == [
        ("[1/3] none, 131 tokens", 130, 130),
        ("[2/3] yarn, 17 tokens", 16, 16),
        ("[3/3] yarn, 131 tokens", 130, 130),
    ]


def test_the_tail_is_that_of_the_last_tokens():
    scores = -np.arange(600.0) / 100
    found = summary(scores)
    assert found["tokens"] == 601
    assert found["tail_perplexity"] == pytest.approx(np.exp(np.mean(np.arange(600 - TAIL, 600)) / 100))
    assert summary(np.array([-5000.0]))["perplexity"] == pytest.approx(np.exp(709))  # JSON has no infinity


def test_lengths_that_cannot_be_measured_are_refused_before(monkeypatch):
    monkeypatch.setattr(KVCache, "check_memory", lambda *_: None, raising=False)
    model = transformer()
    check_lengths("lm perplexity", model, [2, 131], 131, "topics")
    with pytest.raises(ValueError, match="tokens is 132, but the text topics has 131 tokens"):
        check_lengths("lm perplexity", model, [132, 2], 131, "topics")
    with pytest.raises(ValueError, match="tokens is 1, expected an integer >= 2"):
        check_lengths("lm perplexity", model, [1], 131, "topics")

    def refuse(config, batch, capacity, dtype):
        raise ValueError(f"{capacity} tokens need more than there is")

    monkeypatch.setattr(KVCache, "check_memory", refuse, raising=False)
    with pytest.raises(ValueError, match="131 tokens need more than there is"):
        check_lengths("lm perplexity", model, [2, 131], 131, "topics")


def test_a_loss_that_forgets_the_first_token_would_be_seen(monkeypatch):
    """The test of the definition notices a mean over one token too few."""
    right = perplexity.summary
    monkeypatch.setattr(perplexity, "summary", lambda scores: {**right(scores[1:]), "tokens": len(scores) + 1})
    with pytest.raises(AssertionError):
        test_each_length_has_the_perplexity_of_the_encoding_in_force_there()


@pytest.mark.parametrize(("context", "lines", "spans"), [(8192, 0, 1), (1024, 1, 1), (64, 0, 0)])
def test_a_figure_shows_the_models_context_where_it_reaches(monkeypatch, context, lines, spans):
    pytest.importorskip("matplotlib")
    drawn = []
    monkeypatch.setattr(figures, "save", lambda plt, figure, path: drawn.append(figure))
    runs = [{"encoding": "none", "tokens": length, "perplexity": 9.0} for length in (512, 1024, 4096)]
    figures.perplexity_figure(runs, context, "a title", Path("none.png"))
    (axes,) = drawn[0].axes
    figures.pyplot().close(drawn[0])
    assert len(axes.get_lines()) == 1 + lines
    assert len(axes.texts) == lines
    assert len(axes.patches) == spans
    assert axes.get_xlim()[0] > 400

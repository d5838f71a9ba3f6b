"""Generation: which token comes next, and the text as it comes."""

import numpy as np
import pytest
from conftest import BACKENDS
from lm_standins import Bytes, transformer

from refrope import RoPE
from refrope.lm.generating import Sampling, choose, generate, probabilities, stream_text
from refrope.lm.reading import Reader, shared_prefix
from refrope.lm.swapping import rotation_source
from refrope.lm.tokenizing import Decoder
from refrope.nn.transformer import Transformer

PROMPT = np.array([84, 104, 101, 32, 99])
LOGITS = np.log(np.array([0.05, 0.4, 0.1, 0.3, 0.1, 0.05]))


def reader(model=None, capacity=64):
    model = model or transformer()
    return Reader(model, rotation_source(RoPE(8, 500.0), model.dtype), capacity)


def whole_logits(model, tokens):
    """Of the token after `tokens`, without a cache."""
    return model.forward(tokens[None], RoPE(8, 500.0).cos_sin(np.arange(len(tokens)), model.dtype))[0, -1].copy()


# ---- probabilities ----


@pytest.mark.parametrize(
    ("sampling", "wanted"),
    [
        (Sampling(0.0), [0, 1, 0, 0, 0, 0]),
        (Sampling(1.0), [0.05, 0.4, 0.1, 0.3, 0.1, 0.05]),
        (Sampling(1.0, top_k=3), [0, 0.5, 0.125, 0.375, 0, 0]),  # of two equal ones that with the smaller number
        (Sampling(1.0, top_p=0.7), [0, 4 / 7, 0, 3 / 7, 0, 0]),
        (Sampling(1.0, top_p=0.71), [0, 0.5, 0.125, 0.375, 0, 0]),
        (Sampling(1.0, top_p=1e-9), [0, 1, 0, 0, 0, 0]),
        (Sampling(1.0, top_k=99), [0.05, 0.4, 0.1, 0.3, 0.1, 0.05]),
        # Of the three that top-k leaves, 0.5 + 0.375 reach 0.8; of all six 0.4 + 0.3 would not.
        (Sampling(1.0, top_k=3, top_p=0.8), [0, 4 / 7, 0, 3 / 7, 0, 0]),
        (Sampling(0.5), np.array([0.0025, 0.16, 0.01, 0.09, 0.01, 0.0025]) / 0.275),
        # The temperature comes first: at 0.5 the two best have 0.91 of all, at 1 only 0.7.
        (Sampling(0.5, top_p=0.9), [0, 0.64, 0, 0.36, 0, 0]),
    ],
)
def test_probabilities_after_temperature_top_k_and_top_p(sampling, wanted):
    np.testing.assert_allclose(probabilities(LOGITS, sampling), wanted, rtol=1e-12)


def test_tokens_are_drawn_as_often_as_they_are_likely():
    sampling = Sampling(1.0, top_k=3, seed=11)
    source = sampling.source()
    drawn = np.bincount([choose(LOGITS, sampling, source) for _ in range(4000)], minlength=6) / 4000
    assert drawn == pytest.approx([0, 0.5, 0.125, 0.375, 0, 0], abs=0.03)  # four standard deviations


def test_a_certain_token_takes_no_random_number():
    class Empty:
        def random_raw(self, size):
            raise AssertionError("a number is drawn")

    assert choose(LOGITS, Sampling(0.0), Empty()) == 1
    assert choose(LOGITS, Sampling(1.0, top_k=1), Empty()) == 1
    with pytest.raises(AssertionError, match="drawn"):
        choose(LOGITS, Sampling(1.0), Empty())


def test_very_cold_sampling_is_greedy_and_logits_that_are_nan_are_an_error():
    assert probabilities(1e4 * LOGITS, Sampling(1e-3)).argmax() == 1
    with pytest.raises(FloatingPointError, match="NaN"):
        probabilities(np.array([0.0, np.nan]), Sampling())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": -1.0}, "temperature is -1.0, expected a number >= 0"),
        ({"temperature": np.inf}, "temperature is inf"),
        ({"top_k": 0}, "top_k is 0, expected an integer >= 1"),
        ({"top_p": 0.0}, r"top_p is 0.0, expected a number in \(0, 1\]"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_out_of_range_are_an_error(settings, words):
    with pytest.raises(ValueError, match=words):
        Sampling(**settings)


# ---- generation ----


@pytest.mark.parametrize("backend", BACKENDS)
def test_greedy_generation_is_the_best_token_each_time(backend):
    model = transformer(backend=backend, dtype=np.float64, kv_heads=1)
    found = list(generate(reader(model), PROMPT, 12))
    tokens = PROMPT
    for token in found:
        assert token == whole_logits(model, tokens).argmax()
        tokens = np.append(tokens, token)
    assert len(found) == 12


def test_a_seed_gives_the_same_tokens_again_and_another_seed_others():
    texts = [list(generate(reader(), PROMPT, 20, Sampling(1.0, seed=seed))) for seed in (1, 1, 2)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_generation_ends_at_the_end_of_a_text_and_does_not_give_it_out():
    tokens = list(generate(reader(), PROMPT, 9))
    found = list(generate(reader(), PROMPT, 9, eos=(tokens[4],)))
    assert found == tokens[: tokens.index(tokens[4])]


def test_the_prompt_is_read_in_one_call_for_its_last_logits(monkeypatch):
    calls = []
    right = Transformer.forward

    def noted(self, tokens, tables, **options):
        calls.append((tokens.shape, options["last"]))
        return right(self, tokens, tables, **options)

    monkeypatch.setattr(Transformer, "forward", noted)
    list(generate(reader(), PROMPT, 3))
    assert calls == [((1, 5), 1), ((1, 1), 1), ((1, 1), 1)]  # nothing is read after the last token


def test_a_prompt_that_is_empty_or_has_no_room_is_an_error():
    with pytest.raises(ValueError, match=r"Reader.read: tokens are int64\(0,\)"):
        next(generate(reader(), np.empty(0, np.int64), 1))
    assert len(list(generate(reader(capacity=7), PROMPT, 3))) == 3
    with pytest.raises(ValueError, match="5 tokens and 4 more, expected at most 7"):
        next(generate(reader(capacity=7), PROMPT, 4))


# ---- what a reader keeps ----


def test_what_two_prompts_share_is_not_read_again(monkeypatch):
    model = transformer(dtype=np.float64)
    one, other = np.arange(1, 12), np.array([1, 2, 3, 4, 40, 41, 42])
    mine = reader(model)
    mine.read_anew(one)
    read = []
    right = Transformer.forward

    def noted(self, tokens, tables, **options):
        read.append(tokens.shape[1])
        return right(self, tokens, tables, **options)

    with monkeypatch.context() as watched:
        watched.setattr(Transformer, "forward", noted)
        found = mine.read_anew(other).copy()
        assert read == [3]
        again = mine.read_anew(other).copy()
        assert read == [3, 1]  # logits need a token to be read
    np.testing.assert_allclose(found, whole_logits(model, other), rtol=0, atol=1e-12)
    np.testing.assert_allclose(again, found, rtol=0, atol=1e-12)
    assert mine.tokens.tolist() == other.tolist()


def test_long_prompts_go_through_in_pieces_with_the_same_result(monkeypatch):
    model, tokens = transformer(dtype=np.float64), np.arange(50)
    monkeypatch.setattr("refrope.lm.reading.PIECE", 11)
    np.testing.assert_allclose(reader(model).read(tokens), whole_logits(model, tokens), rtol=0, atol=1e-12)


def test_a_reader_goes_back_no_further_than_it_has_come():
    mine = reader()
    mine.read(PROMPT)
    mine.rewind(2)
    assert mine.tokens.tolist() == [84, 104]
    with pytest.raises(ValueError, match=r"length is 3, expected an integer in \[0, 2\]"):
        mine.rewind(3)


def test_shared_prefixes_are_counted():
    a = np.array([1, 2, 3])
    for other, wanted in (([1, 2, 3], 3), ([1, 2], 2), ([1, 2, 4, 5], 2), ([0, 2, 3], 0), ([], 0)):
        assert shared_prefix(a, np.array(other, np.int64)) == wanted


# ---- text as it comes ----


def test_text_is_streamed_character_by_character_never_half_a_one():
    data = "aé→🙂z".encode()
    pieces = list(stream_text(data, Decoder(Bytes())))
    assert pieces == ["a", "é", "→", "🙂", "z"]
    assert "".join(stream_text(data[:-2], Decoder(Bytes()))) == "aé→\ufffd"  # the end of a text cut in a character


def test_streaming_gives_a_piece_before_the_next_token_is_chosen():
    def tokens():
        for token in b"ab":
            given.append(token)
            yield token

    given = []
    pieces = stream_text(tokens(), Decoder(Bytes()))
    assert next(pieces) == "a"
    assert given == [97]


def test_numbers_beyond_the_vocabulary_are_never_chosen():
    model = transformer()
    logits = reader(model).read_anew(np.array([1, 2, 3]))
    best = int(np.argmax(logits))
    first = {next(generate(reader(model), np.array([1, 2, 3]), 1, vocabulary=n)) for n in (best, best + 1)}
    assert first == {int(np.argmax(logits[:best])), best}

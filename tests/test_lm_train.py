"""refrope.lm.training: texts in two parts, tokens, losses of long windows, and trainings that the sweep conducts."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from conftest import BACKENDS, same_bits
from lm_texts import sentences, small_settings, write_texts

from refrope import Resonance, RoPE, Transformer, YaRN, kernels
from refrope.lm.training import losses, texts, tokens, windows
from refrope.lm.training.losses import token_losses
from refrope.lm.training.runs import runs_of
from refrope.lm.training.settings import LMSettings
from refrope.lm.training.sources import sources_of
from refrope.methods import METHODS, Lengths, configuration_of, encoding_of
from refrope.nn.configuration import TransformerConfig
from refrope.randomness import bit_source, bounded_integers

LLAMA = {"kv_heads": 1, "feed_forward": "swiglu", "softmax_scale": None, "head_scale": 1.0}
BACKEND = BACKENDS[-1]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("lm") / "texts")


# ---- texts ----


def test_texts_are_held_out_as_a_whole_by_their_names_alone():
    found = {f"text {i}": sentences(i, 5) for i in range(400)}
    held_out = {name for name in found if texts.is_held_out(name)}
    assert 20 < len(held_out) < 60  # a tenth
    assert held_out == {name for name in reversed(list(found)) if texts.is_held_out(name)}
    # Pinned, from `printf "text 28" | sha256sum`: whoever trains elsewhere holds out the same ones.
    assert [i for i in range(60) if texts.is_held_out(f"text {i}")] == [28, 29, 35, 58]


def test_every_python_brings_texts_of_which_none_is_in_both_parts():
    both = texts.read_texts(tuple(texts.CORPORA))
    assert not set(both.training) & set(both.held_out)
    assert {name.split("/")[0] for name in both.held_out} == {"topics", "library"}
    assert list(both.training) == sorted(both.training)
    # This module of the library holds all topics once more.
    assert not any("pydoc_data" in name for name in (*both.training, *both.held_out))
    long_topics = [text for name, text in both.held_out.items() if name.startswith("topics/") and len(text) > 500]
    assert not any(text in other for text in long_topics for other in both.training.values())
    assert both.sha256 == texts.read_texts(tuple(texts.CORPORA)).sha256


def test_of_few_texts_one_is_held_out(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("x", "in/y", "z"):
        (tmp_path / name).write_text(name)
    found = texts.read_texts((), [str(tmp_path)])
    assert len(found.held_out) == 1
    assert {**found.training, **found.held_out} == {"x": "x", "in/y": "in/y", "z": "z"}
    one = texts.read_texts((), [str(tmp_path / "x"), str(tmp_path / "z")])
    assert one.sha256 != found.sha256


def test_texts_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "a").write_bytes(b"ab\xffc")
    with pytest.raises(ValueError, match=r"lm train: .*a is not UTF-8: byte 0xff at offset 2"):
        texts.read_texts((), [str(tmp_path)])
    (tmp_path / "a").write_text("a")
    with pytest.raises(ValueError, match="1 texts that are not empty, expected at least two"):
        texts.read_texts((), [str(tmp_path)])
    with pytest.raises(ValueError, match="two texts are called a"):
        texts.read_texts((), [str(tmp_path / "a"), str(tmp_path / "a")])
    with pytest.raises(OSError, match="missing"):
        texts.read_texts((), [str(tmp_path / "missing")])
    with pytest.raises(ValueError, match="unknown corpus 'topic'; did you mean 'topics'"):
        texts.read_texts(("topic",))


# ---- tokens ----


def test_byte_tokens_are_bytes():
    found = tokens.byte_tokens()
    text = {"a": "dé\x00<|endoftext|>"}
    assert found.encode(text)["a"].tolist() == list(text["a"].encode())
    assert (found.vocabulary, found.end) == (257, 256)
    assert found.byte_lengths().tolist() == [1] * 256 + [0]


def test_pairs_are_the_same_for_the_same_texts_and_spell_every_text():
    pytest.importorskip("tokenizers")
    read = {str(i): sentences(i, 200) for i in range(3)}
    found = tokens.learn_pairs(read, 290)
    assert found.json == tokens.learn_pairs(read, 290).json
    assert found.vocabulary == 290
    assert tokens.learn_pairs(read, 900).vocabulary < 400  # so few words have no more pairs
    odd = {"odd": "zoë's <|endoftext|>\n\n  \x07 the cat", **read}
    encoded = found.encode(odd)
    lengths = found.byte_lengths()
    for name, text in odd.items():
        assert lengths[encoded[name]].sum() == len(text.encode())
        assert found.end not in encoded[name]
    assert len(encoded["0"]) < 0.6 * len(read["0"])  # pairs are joined


def test_other_programs_read_the_tokenizers_alike(tmp_path):
    pytest.importorskip("tokenizers")
    from refrope.lm.tokenizing import read_tokenizer

    text = sentences(9, 50) + "zoë \x07"
    for made in (tokens.byte_tokens(), tokens.learn_pairs({"a": sentences(1, 200)}, 280)):
        (tmp_path / "tokenizer.json").write_text(made.json, encoding="utf-8")
        read = read_tokenizer(tmp_path / "tokenizer.json")
        assert read.encode(text).tolist() == made.encode({"a": text})["a"].tolist()
        assert read.decode(read.encode(text)) == text
        assert read.vocabulary == made.vocabulary


@pytest.mark.parametrize("said", ["byte", "bpe", "bpe:x", "bpe:100", "bpe:1000000"])
def test_kinds_of_tokens_are_checked(said):
    with pytest.raises(ValueError, match=r"lm train: (tokens are|N of bpe:N is)"):
        tokens.check_tokens(said)


# ---- windows ----


def test_held_out_windows_lie_in_one_text_each_and_share_no_target():
    found = [np.arange(1000, 1000 + n) for n in (7, 8, 15, 40)]
    found[3] += 1000
    chosen = windows.held_out_windows(found, 7, 99)
    # 7 tokens are too few for 7 and the one after; 15 hold two windows, 40 five.
    assert len(chosen) == 1 + 2 + 5
    assert (np.diff(chosen) == 1).all()
    assert chosen[-1].tolist() == list(range(2028, 2036))
    targets = Counter(chosen[chosen[:, 0] >= 2000][:, 1:].ravel().tolist())
    assert set(targets.values()) == {1}
    some = windows.held_out_windows(found, 7, 3)
    assert {tuple(row) for row in some.tolist()} < {tuple(row) for row in chosen.tolist()}
    assert len(some) == 3
    assert windows.held_out_windows(found[:1], 7, 3).shape == (0, 8)


def test_texts_stand_in_one_line_with_an_end_between():
    assert windows.one_line([np.array([1, 2]), np.array([3])], 9).tolist() == [9, 1, 2, 9, 3, 9]


# ---- losses ----


def method_model(name, train, longest):
    config = TransformerConfig(vocabulary=19, d_model=12, heads=2, head_dim=6, d_ff=20, layers=2, **LLAMA)
    config = configuration_of(name, config, train, longest)
    encoding = encoding_of(name, 6, Lengths(train, longest))
    return Transformer(config, seed=3, backend=BACKEND), encoding


@pytest.mark.parametrize("name", METHODS)
def test_losses_a_piece_at_a_time_are_those_of_the_whole(name, monkeypatch):
    monkeypatch.setattr(losses, "CHUNK", 5)
    monkeypatch.setattr(losses, "PAIRWISE_CHUNK", 4)
    monkeypatch.setattr(losses, "PART_TOKENS", 10)
    model, encoding = method_model(name, 8, 23)
    given = bounded_integers(bit_source(1, "windows"), 19, 3 * 24).reshape(3, 24)
    found = token_losses(model, encoding, given)
    from refrope.nn.attending import rotation_of

    logits = model.forward(given[:, :-1], rotation_of(encoding, 23, np.float32)).astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    wanted = np.log(np.exp(logits).sum(axis=-1)) - np.take_along_axis(logits, given[:, 1:, None], axis=-1)[..., 0]
    assert found.shape == (3, 23)
    assert np.abs(found - wanted).max() < 1e-5  # float32 logits of a few units
    assert abs(found.mean() - math.log(19)) < 1


def test_losses_have_the_same_bits_for_any_number_of_threads(monkeypatch):
    pytest.importorskip("threadpoolctl")
    monkeypatch.setattr(losses, "PART_TOKENS", 16)
    model, encoding = method_model("resonance-rope", 8, 16)
    given = bounded_integers(bit_source(2, "windows"), 19, 7 * 17).reshape(7, 17)
    before, found = kernels.get_num_threads(), []
    try:
        for threads in (1, 3):
            kernels.set_num_threads(threads)
            found.append(token_losses(model, encoding, given))
    finally:
        kernels.set_num_threads(before)
    assert same_bits(*found)


def test_losses_that_are_no_numbers_and_windows_of_no_tokens_are_errors():
    model, encoding = method_model("rope", 8, 16)
    with pytest.raises(ValueError, match=r"token_losses: windows are int64\(3, 1\), expected"):
        token_losses(model, encoding, np.zeros((3, 1), np.int64))
    model.params["final.gain"][2] = np.nan
    with pytest.raises(FloatingPointError, match="a loss is NaN"):
        token_losses(model, encoding, np.zeros((3, 9), np.int64))


# ---- settings ----


def test_what_is_swapped_in_begins_beyond_the_training_length():
    settings = LMSettings(encodings=("rope", "resonance-rope", "yarn", "resonance-yarn", "window", "rerope", "alibi"))
    trained = {name: settings.trained_name(name) for name in settings.encodings}
    assert set(trained.values()) == {"rope", "resonance-rope", "alibi"}
    assert trained["resonance-yarn"] == "resonance-rope"
    assert settings.tested_encoding("yarn", 256) == RoPE(64)
    assert settings.tested_encoding("rerope", 256) == RoPE(64)
    yarn = YaRN(64, factor=8.0, original_length=256)
    assert settings.tested_encoding("yarn", 2048) == yarn
    assert settings.tested_encoding("resonance-yarn", 2048) == Resonance(yarn)
    assert settings.tested_encoding("alibi", 2048) is None
    config = settings.model("rope", 257)
    assert settings.tested_model("window", config, 2048) == replace(config, window=256)
    assert settings.tested_model("window", config, 256) == config
    assert config.window is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"preset": "tny"}, "unknown preset 'tny'; did you mean 'tiny'"),
        ({"encodings": ("rope", "ropes")}, "unknown encoding 'ropes'"),
        ({"encodings": ("nowhere:Thing",)}, "nowhere cannot be imported"),
        ({"encodings": ("refrope:RoPE", "refrope:randomness")}, "refrope:randomness is <module"),
        ({"encodings": ("math:pi",)}, "expected a RotaryEncoding or PositionMap"),
        ({"seeds": (1, 1)}, "each once"),
        ({"seeds": (-1,)}, "seed is -1"),
        ({"steps": 0}, "steps is 0"),
        ({"heads": 3}, "heads is 3, expected one of 2, 4, 8, 16, 32, 64"),
        ({"heads": 128}, "heads is 128, expected one of 2, 4"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"test_lengths": (128,)}, "test_length is 128, expected an integer >= 256"),
        ({"train_length": 4}, "train_length is 4"),
        ({"windows": 0}, "windows is 0"),
        ({"tokens": "words"}, "tokens are 'words'"),
        ({"corpora": ("wiki",)}, "unknown corpus 'wiki'"),
        ({"backend": "d"}, "unknown backend 'd'"),
    ],
)
def test_settings_are_checked_in_the_name_of_the_command(changed, said):
    with pytest.raises(ValueError, match=rf"^lm train: .*({said})"):
        LMSettings(**changed)


def test_more_heads_have_fewer_features_and_as_many_weights():
    usual, more = (LMSettings(heads=heads).model("rope", 257) for heads in (None, 8))
    assert (usual.heads, usual.kv_heads, usual.head_dim) == (2, 1, 64)
    assert (more.heads, more.kv_heads, more.head_dim) == (8, 4, 16)
    assert more.size() == usual.size()
    assert LMSettings(heads=8).trained_encoding("rope").head_dim == 16
    assert LMSettings(heads=8).flat()["heads"] == 8


@pytest.mark.parametrize(
    ("steps", "plan"), [(1000, (20, 50)), (60, (20, 3)), (7, (7, 1)), (101, (1, 101)), (1, (1, 1))]
)
def test_a_plan_has_the_steps_that_were_asked_for(steps, plan):
    made = LMSettings(steps=steps).plan()
    assert (made.epochs, made.steps_per_epoch) == plan
    assert made.steps == steps


# ---- runs ----


def trained(settings):
    """The prepared runs of settings, trained."""
    sources, _, _ = sources_of(settings)
    found = []
    for run in runs_of(settings, sources):
        prepared = run.prepare(None)
        prepared.training().run()
        found.append((run, prepared))
    return found


def test_a_model_learns_more_than_how_often_tokens_occur(directory):
    settings = small_settings(
        directory, encodings=("rope",), steps=60, batch_size=12, train_length=24, test_lengths=(24, 48)
    )
    ((run, prepared),) = trained(settings)
    counts = np.bincount(prepared._training, minlength=257)
    shares = counts[counts > 0] / counts.sum()
    entropy = float(-(shares * np.log(shares)).sum())
    rows = [prepared.row(test) for test in run.tests()]
    assert all(row["loss"] < 0.8 * entropy for row in rows)


def test_seeds_give_other_models_and_the_same_seed_the_same_bits(directory):
    settings = small_settings(directory, encodings=("rope",), seeds=(1, 2))
    first, second = (trained(settings) for _ in range(2))
    for (_, one), (_, other) in zip(first, second, strict=True):
        assert same_bits(one.model.flat_params, other.model.flat_params)
    assert not same_bits(first[0][1].model.flat_params, first[1][1].model.flat_params)


def test_all_lengths_predict_the_same_tokens_of_held_out_texts(directory):
    settings = small_settings(directory, encodings=("rope", "yarn", "window", "rerope"))
    ((run, prepared),) = trained(settings)
    rows = {(test.encoding, test.length): prepared.row(test) for test in run.tests()}
    assert len(rows) == 4 * 3
    ends = prepared.windows[:, -16:]
    for (name, length), row in rows.items():
        encoding = settings.tested_encoding(name, length)
        model = prepared._tested(next(t for t in run.tests() if (t.encoding, t.length) == (name, length)))
        found = token_losses(model, encoding, prepared.windows[:, -(length + 1) :])
        assert row["loss"] == pytest.approx(found[:, -16:].mean())
        assert row["bits_per_byte"] == pytest.approx(found[:, -16:].mean() / math.log(2))
        assert len(row["loss_by_position"]) == length // 16
        assert row["loss_by_position"][-1] == pytest.approx(row["loss"])
        assert row["tested_tokens"] == ends.size
    assert len({rows[name, 16]["loss"] for name in ("rope", "yarn", "window", "rerope")}) == 1
    assert len({rows[name, 48]["loss"] for name in ("rope", "yarn", "window", "rerope")}) == 4
    held_out = set(sources_of(settings)[2].held_out.values())
    joined = [bytes(window.tolist()).decode(errors="ignore") for window in prepared.windows]
    assert all(any(piece in text for text in held_out) for piece in joined)


def test_bits_count_bytes_whatever_the_tokens_are(directory, tmp_path):
    pytest.importorskip("tokenizers")
    from refrope.lm.training.sources import save_tokens

    settings = small_settings(directory, encodings=("rope",), tokens="bpe:280", test_lengths=(16, 32))
    sources, made, read = sources_of(settings)
    save_tokens(tmp_path, made)
    (run,) = runs_of(settings, sources)
    prepared = run.prepare(tmp_path)
    row = prepared.row(run.tests()[0])
    assert row["tested_bytes"] > 1.5 * row["tested_tokens"]
    assert row["bits_per_byte"] * row["tested_bytes"] == pytest.approx(row["loss"] * row["tested_tokens"] / math.log(2))
    with pytest.raises(ValueError, match=r"the tokenizer .* not that of lm-bpe-280-rope"):
        run.prepare(tmp_path / "elsewhere")
    assert len(read.held_out) >= 1


@pytest.mark.parametrize(
    "changed",
    [
        {"seeds": (2,)}, {"steps": 8}, {"batch_size": 4}, {"learning_rate": 1e-3}, {"train_length": 15},
        {"preset": "tiny"}, {"heads": 4}, {"encodings": ("alibi",)}, {"frozen": ("embedding",)}, {"tokens": "bpe:260"},
    ],
)  # fmt: skip
def test_whatever_changes_the_weights_changes_the_name_of_a_run(directory, changed):
    if "tokens" in changed:
        pytest.importorskip("tokenizers")
    names = {run.name for run in runs_of(*_with_sources(small_settings(directory)))}
    assert names.isdisjoint(run.name for run in runs_of(*_with_sources(small_settings(directory, **changed))))


@pytest.mark.parametrize("changed", [{"test_lengths": (16, 40)}, {"windows": 2}, {"encodings": ("rope", "rerope")}])
def test_tests_do_not_change_the_name_of_a_run_but_their_own(directory, changed):
    (one,), (other,) = (
        runs_of(*_with_sources(s)) for s in (small_settings(directory), small_settings(directory, **changed))
    )
    assert one.name == other.name
    assert {test.key() for test in one.tests()} != {test.key() for test in other.tests()}


def test_other_texts_are_another_run(directory, tmp_path):
    elsewhere = write_texts(tmp_path / "texts")
    assert (
        runs_of(*_with_sources(small_settings(elsewhere)))[0].name
        == runs_of(*_with_sources(small_settings(directory)))[0].name
    )  # where the files are does not matter
    (elsewhere / "c.txt").write_text("other", encoding="utf-8")
    (run,) = runs_of(*_with_sources(small_settings(elsewhere)))
    assert run.name != runs_of(*_with_sources(small_settings(directory)))[0].name
    (elsewhere / "c.txt").write_text("again", encoding="utf-8")
    with pytest.raises(ValueError, match=r"lm train: the texts .* not those of lm-bytes-rope-s1-"):
        run.prepare(tmp_path)


def _with_sources(settings):
    return settings, sources_of(settings)[0]


def test_texts_shorter_than_a_window_are_refused_before_anything_is_trained(directory):
    with pytest.raises(ValueError, match=r"the longest held-out text has \d+ tokens, expected more than the 5000"):
        sources_of(small_settings(directory, test_lengths=(16, 5000)))


def test_encodings_of_ones_own_are_trained_and_tested(directory, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from refrope import RoPE\n\n\ndef slow(head_dim, factor):\n    return RoPE(head_dim, base=100.0 * factor)\n"
    )
    name = f"{tmp_path / 'mine.py'}:slow"
    ((run, prepared),) = trained(small_settings(directory, encodings=(name,)))
    assert run.trained == name
    assert prepared.row(run.tests()[-1])["tested_with"] == repr(RoPE(32, base=300.0))

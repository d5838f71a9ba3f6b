"""The tokenizer that a GGUF file describes: byte pairs with merges, as GPT-2's, for the package `tokenizers`."""

from __future__ import annotations

from typing import Any

import numpy as np

from refrope.lm.fields import Fields, shown
from refrope.lm.tokenizing import NEEDED, Tokenizer, guarded

_PREFIX = "tokenizer.ggml."
_CONTROL, _USER_DEFINED = 3, 4  # of token_type

# How a text is split before pairs are merged, which none of them crosses. GPT-2's expression is the one that
# tokenizers' ByteLevel has; SmolLM sets each digit apart first; Llama 3's is in its released tokenizer.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS = ("gpt-2", "smollm", "llama-bpe")
_ALIASES = {"gpt2": "gpt-2", "llama3": "llama-bpe", "llama-v3": "llama-bpe"}


def gguf_tokenizer(fields: Fields, pre: str | None = None) -> Tokenizer:
    """The tokenizer that the fields tokenizer.ggml.* describe.

    Parameters
    ----------
    fields : Fields
        Of a GGUF header.
    pre : {"gpt-2", "smollm", "llama-bpe"}, optional
        How texts are split, instead of what tokenizer.ggml.pre says.

    Raises
    ------
    ValueError
        A kind of tokenizer that is not built here, or one whose parts do not fit; the message names file and field.
    """
    try:
        import tokenizers
        from tokenizers import models, processors
    except ImportError:
        raise ValueError(NEEDED) from None
    fields.text(f"{_PREFIX}model", ["gpt2"])
    name = _pre(fields, pre)
    tokens = _texts(fields, f"{_PREFIX}tokens")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        double = next(token for number, token in enumerate(tokens) if vocabulary[token] != number)
        raise fields.refuse(f"{_PREFIX}tokens", f"each token once: {shown(double)} is there twice")
    merges = _merges(fields, vocabulary)
    # Llama 3 takes a piece that is a token as it is, whatever its merges would make of it.
    model = guarded(fields.path, lambda: models.BPE(vocab=vocabulary, merges=merges, ignore_merges=name == "llama-bpe"))
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = _pre_tokenizer(name)
    inner.decoder = tokenizers.decoders.ByteLevel()
    for added in _added(fields, tokens):
        inner.add_tokens([added])
    # What stands before and after every text.
    around = {
        end: fields.integer(f"{_PREFIX}{end}_token_id", 0, len(tokens) - 1)
        for end in ("bos", "eos")
        if fields.flag(f"{_PREFIX}add_{end}_token", default=end == "bos" and name == "llama-bpe")
    }
    if around:
        inner.post_processor = processors.TemplateProcessing(
            single=[*(["BOS"] if "bos" in around else []), "$A", *(["EOS"] if "eos" in around else [])],
            special_tokens=[(end.upper(), number) for end, number in around.items()],
        )
    return Tokenizer(inner, fields.path)


def _pre(fields: Fields, pre: str | None) -> str:
    if pre is not None:
        if pre not in PRE_TOKENIZERS:
            raise ValueError(f"load: pre is {pre!r}, expected one of {', '.join(PRE_TOKENIZERS)}")
        return pre
    name = fields.text(f"{_PREFIX}pre")
    name = _ALIASES.get(name, name)
    if name not in PRE_TOKENIZERS:
        raise fields.refuse(f"{_PREFIX}pre", f"one of {', '.join(PRE_TOKENIZERS)} (load's `pre` names another)")
    return name


def _pre_tokenizer(name: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    if name == "gpt-2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    split = pre_tokenizers.Split(Regex(_LLAMA3), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _texts(fields: Fields, name: str) -> list[str]:
    texts = fields.values.get(name)
    if not isinstance(texts, list) or not texts:
        raise fields.refuse(name, "an array of texts")
    return texts


def _merges(fields: Fields, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    merges = []
    for number, merge in enumerate(_texts(fields, f"{_PREFIX}merges")):
        first, space, second = merge.partition(" ")
        if not space or not {first, second, first + second} <= vocabulary.keys():
            raise fields.refuse(
                f"{_PREFIX}merges", f"pairs of tokens that make a token: number {number} is {shown(merge)}"
            )
        merges.append((first, second))
    return merges


def _added(fields: Fields, tokens: list[str]) -> list[Any]:
    """Tokens that are found in a text as they are, whatever stands around them."""
    from tokenizers import AddedToken

    name = f"{_PREFIX}token_type"
    types = fields.values.get(name)
    if types is None:
        return []
    if not isinstance(types, np.ndarray) or types.dtype.kind not in "iu" or types.shape != (len(tokens),):
        raise fields.refuse(name, f"an integer for each of the {len(tokens)} tokens")
    return [
        AddedToken(tokens[number], special=bool(types[number] == _CONTROL), normalized=False)
        for number in np.flatnonzero((types == _CONTROL) | (types == _USER_DEFINED))
    ]

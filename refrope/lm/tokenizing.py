"""Texts to tokens and back, by the tokenizer that a model was trained with; the package `tokenizers` does the work.

Two families of tokenizers serve Llama models, and both can write any text: byte-level ones, whose vocabulary spells
bytes as printable characters (Radford et al. 2019, GPT-2), and SentencePiece's, whose words begin with "▁" and which
fall back to tokens "<0x00>" to "<0xFF>" for what the vocabulary lacks (Kudo and Richardson 2018, arXiv:1808.06226).
"""

from __future__ import annotations

import codecs
import json
import re
import warnings
from collections.abc import Callable, Iterable
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from refrope.errors import check_integer, describe, in_a_line
from refrope.lm.fields import failure, read_bytes

if TYPE_CHECKING:
    import tokenizers

T = TypeVar("T")
LARGEST_FILE = 100_000_000  # bytes of a tokenizer.json; that of 256,000 tokens has 34 million
NEEDED = "load: the package tokenizers is not installed here (pip install 'refrope[llm]')"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


@cache
def byte_characters() -> tuple[str, ...]:
    """What spells each byte in the vocabulary of a byte-level tokenizer.

    Itself where Latin-1 has something to see there; the others take the characters from U+0100 on, in order.
    """
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in seen else next(others)) for byte in range(256))


def guarded(path: Path, call: Callable[[], T]) -> T:
    """What `call` returns; where tokenizers raises or its Rust code panics, an error that names the file."""
    try:
        return call()
    except Exception as error:
        raise failure(path, f"the tokenizer is refused by tokenizers: {in_a_line(error)}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise failure(path, f"the tokenizer makes tokenizers fail: {in_a_line(error)}") from error


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json.

    Raises
    ------
    ValueError
        No such tokenizer, or one of another family than those that models of this architecture have.
    OSError
        The file cannot be read.
    """
    try:
        import tokenizers
    except ImportError:
        raise ValueError(NEEDED) from None
    try:
        text = read_bytes(path, LARGEST_FILE).decode()
    except UnicodeDecodeError as error:
        raise failure(path, f"it is not UTF-8: {error.reason} at byte {error.start}") from None
    return Tokenizer(guarded(path, lambda: tokenizers.Tokenizer.from_str(text)), path)


class Tokenizer:
    """Texts to tokens and back.

    Parameters
    ----------
    inner : tokenizers.Tokenizer
        It is changed: padding and truncation, which some files ask for, are switched off.
    path : Path
        The file that it comes from, for errors.

    Attributes
    ----------
    vocabulary : int
        Tokens are numbers in [0, vocabulary).

    Raises
    ------
    ValueError
        A decoder of neither family; no tokens.
    """

    def __init__(self, inner: tokenizers.Tokenizer, path: Path) -> None:
        inner.no_padding()
        inner.no_truncation()
        self.inner, self.path = inner, path
        tokens: dict[str, int] = inner.get_vocab(with_added_tokens=True)
        if not tokens:
            raise failure(path, "the tokenizer has no tokens, expected a vocabulary")
        self.vocabulary = max(tokens.values()) + 1
        self._added = {number: token.content.encode() for number, token in inner.get_added_tokens_decoder().items()}
        parts = _parts(inner.decoder)
        kinds = [part.get("type") for part in parts]
        self._falls_back = "ByteFallback" in kinds
        self._bytes: dict[str, int] | None = None
        self._lost = b""
        self._drops_space = any(
            (part.get("type") == "Strip" and part.get("start") == 1)
            or (part.get("type") == "Metaspace" and part.get("prepend_scheme") != "never")
            for part in parts
        )
        if "ByteLevel" in kinds:
            self._bytes = {character: byte for byte, character in enumerate(byte_characters())}
            self._lost = self._without_token(tokens)
        elif not {"ByteFallback", "Metaspace"} & set(kinds):
            raise failure(path, f"the tokenizer's decoder is {kinds}, expected ByteLevel, ByteFallback or Metaspace")

    def _without_token(self, tokens: dict[str, int]) -> bytes:
        """The bytes that nothing spells: SmolLM2's tokenizer, for one, has never seen 0x04."""
        if getattr(self.inner.model, "unk_token", None) is not None:
            return b""
        return bytes(byte for byte, character in enumerate(byte_characters()) if character not in tokens)

    def encode(self, text: str, *, special: bool = True) -> npt.NDArray[np.int64]:
        """The tokens of a text.

        Parameters
        ----------
        special : bool
            Put round it what the model expects there, such as the token that begins a text, where it expects it.

        Returns
        -------
        (T,) int64

        Raises
        ------
        ValueError
            No string, or one with half of a surrogate pair, which is no text.

        Warns
        -----
        UserWarning
            Bytes that no token spells; tokenizers leaves them out.
        """
        if not isinstance(text, str):
            raise ValueError(f"Tokenizer.encode: text is {describe(text)}, expected a string")
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            came = f"a lone surrogate at {error.start}"
            raise ValueError(f"Tokenizer.encode: text has {came}, expected Unicode characters") from None
        if lost := set(data) & set(self._lost):
            words = f"byte 0x{min(lost):02X}, for which the tokenizer has no token: it is left out"
            warnings.warn(f"Tokenizer.encode: text has {words}", stacklevel=2)
        encoded = guarded(self.path, lambda: self.inner.encode(text, add_special_tokens=special))
        return np.array(encoded.ids, np.int64)

    def encode_inside(self, text: str) -> npt.NDArray[np.int64]:
        """The tokens of what follows other text: without the space that some tokenizers put before a beginning.

        Raises
        ------
        ValueError
            As `encode`.
        """
        if self._drops_space and text:
            before, both = self._line_end, self.encode(f"\n{text}", special=False)
            if np.array_equal(both[: len(before)], before):  # nothing grew together across the seam
                return both[len(before) :]
        return self.encode(text, special=False)

    @cached_property
    def _line_end(self) -> npt.NDArray[np.int64]:
        return self.encode("\n", special=False)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens, special ones as they are written; bytes that are no UTF-8 become U+FFFD."""
        decoder = Decoder(self)
        return "".join([*map(decoder.push, tokens), decoder.flush()])

    def token_bytes(self, token: int) -> bytes:
        """What a token writes, none for a number in [0, vocabulary) that has no token: UTF-8, or a part of it.

        Raises
        ------
        ValueError
            A number that is no token's.
        """
        number = check_integer("Tokenizer.token_bytes", "token", token, 0, self.vocabulary - 1)
        if number in self._added:
            return self._added[number]
        text: str | None = self.inner.id_to_token(number)
        if text is None:
            return b""
        if self._bytes is None:
            byte = _BYTE.fullmatch(text) if self._falls_back else None
            return bytes([int(byte[1], 16)]) if byte else text.replace("▁", " ").encode()
        spelt = [self._bytes.get(character) for character in text]
        return bytes(b for b in spelt if b is not None) if None not in spelt else text.encode()

    @property
    def drops_space(self) -> bool:
        """A space at the beginning of a text belongs to the tokenizer, not to the text."""
        return self._drops_space


class Decoder:
    """The text of tokens that come one by one, never half a character.

    Parameters
    ----------
    tokenizer : Tokenizer
    at_start : bool
        The tokens begin a text, whose first space may be the tokenizer's; not those that go on with one.

    Examples
    --------
    >>> decoder = Decoder(tokenizer)
    >>> for token in tokenizer.encode("Über"):
    ...     print(decoder.push(token), end="", flush=True)
    Über
    >>> decoder.flush()
    ''
    """

    def __init__(self, tokenizer: Tokenizer, *, at_start: bool = True) -> None:
        self.tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = at_start and tokenizer.drops_space

    def push(self, token: int) -> str:
        """The characters that are complete with this token, which may be none."""
        return self._begun(self._utf8.decode(self.tokenizer.token_bytes(token)))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for half a character."""
        return self._begun(self._utf8.decode(b"", final=True))

    def _begun(self, text: str) -> str:
        if self._at_start and text:
            self._at_start = False
            return text.removeprefix(" ")
        return text


def _parts(decoder: Any) -> list[dict[str, Any]]:
    """What a decoder of tokenizers is made of, each part as its JSON."""
    state = json.loads(decoder.__getstate__()) if decoder is not None else {}
    parts: list[dict[str, Any]] = state.get("decoders", [state])
    return parts

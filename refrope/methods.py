"""Every way of telling a model positions that `refrope posgen` knows, by name: what it is, whose, how to build it.

A method is a rotation (an encoding, or a position map around one), or something in the model's configuration (a bias,
rows added to the embeddings, a window), or nothing at all. `encoding_of` and `configuration_of` give these two parts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from refrope.encodings import Resonance, RoPE, RotaryEncoding, YaRN
from refrope.encodings.pointers import Pointers
from refrope.encodings.position_map import PositionMap
from refrope.encodings.remap import STRING, DualChunk, LeakyReRoPE, ReRoPE, SelfExtend
from refrope.errors import check_name
from refrope.nn.absolute import LearnedPositions, Sinusoidal
from refrope.nn.biases import ALiBi, Bias, Kerple, T5Bias
from refrope.nn.configuration import TransformerConfig
from refrope.nn.dape import DAPE
from refrope.nn.fire import FIRE
from refrope.nn.place_bias import PlaceBias
from refrope.own_encodings import is_own, own_encoding, own_label


class Method(NamedTuple):
    """What a name stands for.

    Attributes
    ----------
    label : str
        In tables and figures.
    about, source : str
        What it does, in a line; where it was published.
    rate : float
        How many times the preset's peak learning rate it is trained with, chosen by accuracy within the training
        length. 1.2e-3 is RoPE's; sinusoids, rows and biases hardly move in as few steps at that, RoPE loses at 3e-3.
    """

    label: str
    about: str
    source: str
    rate: float = 1.0


METHODS = {
    "rope": Method("RoPE", "turn queries and keys by their position", "Su et al. 2021, arXiv:2104.09864"),
    "resonance-rope": Method(
        "Resonance RoPE", "RoPE of whole-number wavelengths", "Wang et al. 2024, arXiv:2403.00071"
    ),
    "yarn": Method("YaRN", "slow the long wavelengths down", "Peng et al. 2023, arXiv:2309.00071"),
    "resonance-yarn": Method(
        "Resonance YaRN", "YaRN of whole-number wavelengths", "Wang et al. 2024, arXiv:2403.00071"
    ),
    "nope": Method("NoPE", "no positions: the causal mask is all", "Kazemnejad et al. 2023, arXiv:2305.19466"),
    "sinusoidal": Method(
        "sinusoidal", "add fixed sines and cosines to the embeddings", "Vaswani et al. 2017, arXiv:1706.03762"
    ),
    "learned": Method(
        "learned", "add a learned row a position to the embeddings", "Gehring et al. 2017, arXiv:1705.03122"
    ),
    "t5": Method(
        "T5 bias", "add a learned number for each of 32 buckets of distances", "Raffel et al. 2020, arXiv:1910.10683"
    ),
    "alibi": Method("ALiBi", "subtract a fixed slope times the distance", "Press et al. 2022, arXiv:2108.12409"),
    "kerple": Method("Kerple", "subtract p ln(1 + a distance), p and a learned", "Chi et al. 2022, arXiv:2205.09921"),
    "fire": Method("FIRE", "add an MLP of the distance relative to the position", "Li et al. 2024, arXiv:2310.04418"),
    "dape": Method(
        "DAPE", "Kerple, and an MLP of scores and biases of all heads", "Zheng et al. 2024, arXiv:2405.14722"
    ),
    "dape-v2": Method("DAPE V2", "DAPE with 1 x 3 convolutions over the keys", "Zheng et al. 2024, arXiv:2410.04798"),
    "window": Method(
        "window", "RoPE, and a query sees the 8 nearest keys only", "Beltagy et al. 2020, arXiv:2004.05150"
    ),
    "pointers": Method(
        "pointers", "the first layer alone sees 3 near keys and 4 others", "ours: encodings/pointers.py"
    ),
    "rerope": Method("ReRoPE", "RoPE with no distance above L/2", "Su 2023, kexue.fm/archives/9708"),
    "leaky-rerope": Method(
        "Leaky ReRoPE", "RoPE, distances above L/2 squeezed to end at L", "Su 2023, kexue.fm/archives/9708"
    ),
    "self-extend": Method(
        "Self-Extend", "RoPE, tokens beyond L/2 in groups, to end at L", "Jin et al. 2024, arXiv:2401.01325"
    ),
    "dca": Method("DCA", "RoPE within and across chunks, none above 3L/4", "An et al. 2024, arXiv:2402.17463"),
    "string": Method("STRING", "RoPE, distances from L/3 on shifted down to L/8", "An et al. 2024, arXiv:2410.18745"),
}
METHODS |= {
    name: METHODS[name]._replace(rate=2.5)
    for name in ("nope", "sinusoidal", "learned", "t5", "alibi", "kerple", "fire", "dape", "dape-v2")
}
PAPER = ("rope", "resonance-rope", "yarn", "resonance-yarn")  # those of Table 1, in its order
MAPS = ("rerope", "leaky-rerope", "self-extend", "dca", "string")
WINDOW = 8  # keys; PosGen's cot and recursive need the last four tokens
POINTER_BASE = 100.0  # the effective positions of pointers are 0 to 7: no pair need turn slower


def method_of(name: str, function: str = "method_of") -> Method:
    """What a name stands for: one of `METHODS`, or what a user brings (see `refrope.own_encodings`).

    Raises
    ------
    ValueError
        Another name; errors begin with `function`.
    """
    if is_own(name):
        return Method(own_label(name), "an encoding of your own", name.rpartition(":")[0])
    check_name(function, "encoding", name, METHODS)
    return METHODS[name]


def label_of(name: str) -> str:
    """What a method is called in tables and figures; a name that nobody knows is its own label."""
    return method_of(name).label if is_own(name) or name in METHODS else name


def order_of(name: str) -> int:
    """A key to sort methods by: as in `METHODS`, and others behind them."""
    return list(METHODS).index(name) if name in METHODS else len(METHODS)


class Lengths(NamedTuple):
    """Tokens that a model reads in training and in a test, the front token counted."""

    train: int
    test: int


def encoding_of(
    name: str, head_dim: int, lengths: Lengths, *, yarn: RotaryEncoding | None = None, who: str = "posgen"
) -> RotaryEncoding | PositionMap | None:
    """What turns queries and keys under a method, or None where nothing does.

    Parameters
    ----------
    name : one of `METHODS`, or where to find one of your own
    head_dim : int
    lengths : Lengths
        L and L': maps are made so that no distance of the test has an effective one of L or more, where they can.
    yarn : RotaryEncoding, optional
        What "yarn" means; index ramp, factor test / train and original length train if None.
    who : str
        The command that asks: what errors on an encoding of one's own begin with.

    Raises
    ------
    ValueError
        Another name; lengths for which a map would do nothing; what `refrope.own_encodings.own_encoding` raises.
    """
    if is_own(name):
        return own_encoding(name, head_dim, *lengths, who=who)
    check_name("encoding_of", "encoding", name, METHODS)
    plain: RotaryEncoding = RoPE(head_dim)
    train, test = lengths
    if name.endswith("yarn"):
        scaled = YaRN(head_dim, factor=test / train, original_length=train, beta_fast=2.0) if yarn is None else yarn
        return Resonance(scaled) if name.startswith("resonance") else scaled
    if name in ("rope", "window", "resonance-rope"):
        return Resonance(plain) if name == "resonance-rope" else plain
    if name == "pointers":
        return Pointers(RoPE(head_dim, base=POINTER_BASE))
    if name not in MAPS:
        return None
    position_map = _map_of(name, plain, train, test)
    position_map.check_effect(test)
    return position_map


def _map_of(name: str, plain: RotaryEncoding, train: int, test: int) -> PositionMap:
    if train < 3:
        raise ValueError(f"encoding_of: training on {train} tokens, expected at least 3 for a position map")
    half, third, eighth = train // 2, train // 3, max(train // 8, 1)
    # The least that brings the longest distance of the test below the training length.
    squeeze = max(-(-(test - 1 - half) // (train - 1 - half)), 1)
    match name:
        case "rerope":
            return ReRoPE(plain, half)
        case "leaky-rerope":
            return LeakyReRoPE(plain, half, squeeze)
        case "self-extend":
            return SelfExtend(plain, half, squeeze)
        case "dca":
            return DualChunk(plain, 3 * train // 4, eighth)
        case _:
            return STRING(plain, third, eighth)


def configuration_of(
    name: str, config: TransformerConfig, train: int, longest: int, *, who: str = "posgen"
) -> TransformerConfig:
    """`config` with what a method adds to the model.

    Parameters
    ----------
    name : one of `METHODS`, or where to find one of your own; a map with places adds a `PlaceBias`, whoever made it
    config : TransformerConfig
    train, longest : int
        Tokens of a training sequence, and of the longest one that the model will ever read.
    who : str
        The command that asks: what errors on an encoding of one's own begin with.

    Raises
    ------
    ValueError
        Another name; what `refrope.own_encodings.own_encoding` raises.
    """
    method_of(name, "configuration_of")
    if is_own(name) or name == "pointers":
        encoding = encoding_of(name, config.head_dim, Lengths(train, longest), who=who)
        places = encoding.places if isinstance(encoding, PositionMap) else 0
        return replace(config, bias=PlaceBias(places), absolute=None, window=None) if places else config
    biases: dict[str, Bias | DAPE] = {
        "t5": T5Bias(deviation=config.d_model**-0.5),
        "alibi": ALiBi(),
        "kerple": Kerple(),
        "fire": FIRE(threshold=train / 2),
        "dape": DAPE(Kerple()),
        "dape-v2": DAPE(Kerple(), kernel=3),
    }
    absolute: dict[str, Sinusoidal | LearnedPositions] = {
        "sinusoidal": Sinusoidal(),
        "learned": LearnedPositions(longest),
    }
    window = WINDOW if name == "window" else None
    return replace(config, bias=biases.get(name), absolute=absolute.get(name), window=window)


def listing() -> str:
    """One line a method: name, what it does, source."""
    rows = [(name, method.about, method.source) for name, method in METHODS.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(f"{name:{widths[0]}}  {about:{widths[1]}}  {source}" for name, about, source in rows)

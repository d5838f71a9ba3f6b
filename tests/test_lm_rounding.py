"""What rounding wavelengths does to a model: two of them side by side, by layer, by pair and from each pair on."""

from functools import partial

import numpy as np
import pytest
from lm_standins import transformer

from refrope import ProportionalRoPE, Resonance, RoPE, YaRN
from refrope.lm import rounding
from refrope.lm.progress import Silent
from refrope.lm.rounding import block_error, closed_form, fitting, free, measure, parts, summary, windows
from refrope.lm.scoring import token_log_likelihoods
from refrope.lm.side_by_side import compare, divergences
from refrope.nn.attending import ByLayer
from refrope.nn.memory import KVCache
from refrope.randomness import bit_source, bounded_integers, normal_numbers

OWN = RoPE(8, 500.0)  # four pairs
LAYERS = 3
TOKENS = bounded_integers(bit_source(5, "text"), 256, 131)
# Of KL divergences and losses around 0.01 and 5 nats, in float64.
CLOSE = 1e-12


def model_of(**options):
    return transformer(**{"dtype": np.float64, "layers": LAYERS, **options})


def tables(encoding, length=130):
    return encoding.cos_sin(np.arange(length), np.float64)


def mixed(pairs, length=130):
    """Tables with some columns of Resonance's."""
    result = [table.copy() for table in tables(OWN, length)]
    for table, rounded in zip(result, tables(Resonance(OWN), length), strict=True):
        table[:, list(pairs)] = rounded[:, list(pairs)]
    return tuple(result)


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def direct(rotation, tokens=TOKENS, model=None):
    """Loss and KL divergence by their definitions, out of one call each."""
    model, length = model or model_of(), len(tokens) - 1
    own, other = (
        log_softmax(model.forward(tokens[None, :-1], each)[0].astype(np.float64))
        for each in (tables(OWN, length), rotation)
    )
    nats = -other[np.arange(length), tokens[1:]].mean()
    return nats, (np.exp(own) * (own - other)).sum(axis=1).mean()


def rows_of(model=None, encoding=OWN, tokens=TOKENS, **options):
    options = {"context": len(tokens), **options}
    rows = [row for part in measure(model or model_of(), encoding, tokens, **options) for row in part]
    return {(row["kind"], row["index"]): row for row in rows}


# ---- what is measured ----


def test_every_row_is_what_tables_made_by_hand_give():
    found, every = rows_of(chunk=29, together=3), range(4)
    wanted = {("own", None): tables(OWN), ("all", None): tables(Resonance(OWN))}
    wanted |= {("pair", pair): mixed([pair]) for pair in every}
    wanted |= {("from_pair", pair): mixed(every[pair:]) for pair in every}
    for layer in range(LAYERS):
        by_layer = [tables(OWN)] * LAYERS
        by_layer[layer] = tables(Resonance(OWN))
        wanted["layer", layer] = ByLayer(tuple(by_layer))
    assert found.keys() == wanted.keys()
    for place, rotation in wanted.items():
        nats, kl = direct(rotation)
        assert found[place]["nats"] == pytest.approx(nats, abs=CLOSE)
        assert found[place]["perplexity"] == pytest.approx(np.exp(nats))
        assert found[place]["change"] == pytest.approx(nats - found["own", None]["nats"], abs=CLOSE)
        assert found[place]["kl"] == pytest.approx(kl, abs=CLOSE)
    assert len({row["kl"] for row in found.values()}) == len(found) - 2  # all, and the slowest pair, are there twice


def test_all_pairs_from_the_fastest_on_are_all_and_from_the_slowest_on_are_itself():
    found = rows_of()
    for one, other in ((("from_pair", 0), ("all", None)), (("from_pair", 3), ("pair", 3))):
        assert {**found[one], "kind": "", "index": 0} == {**found[other], "kind": "", "index": 0}
    assert found["from_pair", 0]["kl"] > found["from_pair", 1]["kl"] > found["from_pair", 2]["kl"] > 0


@pytest.mark.parametrize("backend", ["numpy", "c"])
@pytest.mark.parametrize("chunk", [129, 43])  # one row alone, which is read in a way of its own, or none
def test_an_unchanged_rotation_changes_nothing_at_all(backend, chunk):
    model = transformer(backend=backend, feed_forward="swiglu", layers=LAYERS)
    source = partial(OWN.cos_sin, dtype=np.float32)
    same = [source, lambda positions: ByLayer((source(positions),) * LAYERS)]
    scores, divergence = compare(model, TOKENS, source, same, chunk=chunk)
    assert scores.shape == (3, 130)
    assert np.array_equal(scores[1:], scores[[0, 0]])
    assert np.array_equal(divergence, np.zeros((2, 130)))


def test_whole_wavelengths_are_free_to_round_and_exactly_so():
    found = rows_of(encoding=Resonance(OWN))
    assert len(found) == 2 + LAYERS + 4 + 4
    for row in found.values():
        assert [row[key] for key in ("change", "change_error", "kl", "kl_error")] == [0, 0, 0, 0]
        assert row["nats"] == found["own", None]["nats"]
    assert all(pair["drift"] == pair["relative_change"] == 0 for pair in closed_form(Resonance(OWN), 131))
    assert free(list(found.values()), 1e-300) == {
        **{"tolerance": 1e-300, "pairs": [0, 1, 2, 3], "layers": [0, 1, 2]},
        "from_pair": 0,
    }


def test_scores_side_by_side_are_those_of_each_alone():
    model, sources = model_of(), [partial(each.cos_sin, dtype=np.float64) for each in (OWN, Resonance(OWN))]
    scores, _ = compare(model, TOKENS, sources[0], sources[1:], chunk=37)
    for found, source in zip(scores, sources, strict=True):
        assert np.allclose(found, token_log_likelihoods(model, TOKENS, source), rtol=0, atol=CLOSE)


def test_c_and_numpy_agree_within_roundings():
    for dtype, tolerance in ((np.float64, CLOSE), (np.float32, 2e-5)):  # float32: sums of a few dozen, losses near 6
        c, numpy = (rows_of(model_of(dtype=dtype, backend=name)) for name in ("c", "numpy"))
        assert c.keys() == numpy.keys()
        for place, row in c.items():
            for key in ("nats", "change", "kl"):
                assert row[key] == pytest.approx(numpy[place][key], abs=tolerance)


def test_chunks_and_how_many_read_together_change_roundings_at_most():
    wanted = rows_of()
    for options in ({"together": 1, "chunk": 67}, {"together": 100, "chunk": 29}):
        for place, row in rows_of(**options).items():
            for key in ("nats", "change", "change_error", "kl", "kl_error"):
                assert row[key] == pytest.approx(wanted[place][key], abs=CLOSE)


def test_windows_begin_at_position_zero_and_count_by_their_tokens():
    found = rows_of(context=47)
    assert windows(131, 47) == [slice(0, 47), slice(47, 94), slice(94, 131)]
    assert windows(95, 47) == [slice(0, 47), slice(47, 94)]
    for place, make in ((("all", None), partial(tables, Resonance(OWN))), (("pair", 1), partial(mixed, [1]))):
        each = [
            (cut.stop - cut.start - 1, direct(make(cut.stop - cut.start - 1), TOKENS[cut])) for cut in windows(131, 47)
        ]
        for key, values in (("nats", [nats for _, (nats, _) in each]), ("kl", [kl for _, (_, kl) in each])):
            assert found[place][key] == pytest.approx(np.average(values, weights=[n for n, _ in each]), abs=CLOSE)


def test_a_softmax_factor_is_in_all_readings():
    yarn = YaRN(8, 500.0, factor=4.0, original_length=64, mscale=1.0, mscale_all_dim=1.0)
    assert yarn.softmax_factor > 1.2
    other = model_of(softmax_scale=yarn.softmax_factor / np.sqrt(8))
    own, rounded = (
        token_log_likelihoods(other, TOKENS, partial(each.cos_sin, dtype=np.float64))
        for each in (yarn, Resonance(yarn))
    )
    found = rows_of(encoding=yarn)
    assert found["own", None]["nats"] == pytest.approx(-own.mean(), abs=CLOSE)
    assert found["all", None]["change"] == pytest.approx((own - rounded).mean(), abs=CLOSE)


def test_progress_counts_every_token_that_is_read():
    shown = []

    class Told(Silent):
        def __exit__(self, *_):
            shown.append((self.title, self.total, self.done))

    rows_of(context=47, together=4, chunk=17, progress=Told)
    readings = LAYERS + 2 * 4 - 1
    assert shown == [(f"{readings} ways to round, 131 tokens", 128 * (readings + 3), 128 * (readings + 3))]


# ---- parts of it ----


def test_parts_that_round_the_same_share_a_reading():
    listed = parts(LAYERS, 4)
    assert [(part.kind, part.number) for part in listed] == [
        *(("all", None), ("layer", 0), ("layer", 1), ("layer", 2)),
        *(("pair", 0), ("pair", 1), ("pair", 2), ("pair", 3)),
        *(("from_pair", 0), ("from_pair", 1), ("from_pair", 2), ("from_pair", 3)),
    ]
    assert len({part.reading for part in listed}) == LAYERS + 2 * 4 - 1
    assert listed[2].layers == (1,)
    assert listed[10].pairs == (2, 3)


def test_divergences_are_those_of_the_definition():
    own, other = (3 * normal_numbers(bit_source(seed, "logits"), 371).reshape(7, 53) for seed in (1, 2))
    p, q = log_softmax(own), log_softmax(other)
    assert np.allclose(divergences(own, other), (np.exp(p) * (p - q)).sum(axis=1), rtol=1e-13)
    assert not np.allclose(divergences(own, other), divergences(other, own), rtol=0.01)
    assert np.array_equal(divergences(own, own), np.zeros(7))
    assert np.allclose(divergences(own, own + 17.0), 0, atol=1e-13)  # a constant is no difference
    assert (divergences(own.astype(np.float32), own.astype(np.float32) + np.float32(17)) >= 0).all()


def test_divergences_of_what_makes_no_sense_are_an_error():
    logits = np.zeros((3, 5))
    for other in (np.zeros((3, 4)), np.zeros((4, 5))):
        with pytest.raises(ValueError, match=r"divergences: logits are float64\(3, 5\) and"):
            divergences(logits, other)
    for bad in (np.nan, np.inf):
        spoilt = logits.copy()
        spoilt[1, 2] = bad
        for pair in ((spoilt, logits), (logits, spoilt)):
            with pytest.raises(FloatingPointError, match="a logit is not finite"):
                divergences(*pair)


def test_fewer_than_two_tokens_are_an_error():
    source = partial(OWN.cos_sin, dtype=np.float64)
    for tokens in (TOKENS[:1], TOKENS[None], TOKENS.astype(float)):
        with pytest.raises(ValueError, match="compare: tokens are"):
            compare(model_of(), tokens, source, [source])


def test_the_closed_form_is_what_wavelengths_say():
    rows = closed_form(OWN, 131)
    for pair, row in enumerate(rows):
        wavelength = 2 * np.pi * 500 ** (pair / 4)
        assert row["pair"] == pair
        assert row["wavelength"] == pytest.approx(wavelength, rel=1e-15)
        assert row["rounded"] == round(wavelength)
        assert row["relative_change"] == pytest.approx(round(wavelength) / wavelength - 1)
        assert row["drift"] == pytest.approx(131 * abs(1 / wavelength - 1 / round(wavelength)))
    apart = 131 * abs(OWN.inv_freq - Resonance(OWN).inv_freq) / (2 * np.pi)
    assert np.allclose([row["drift"] for row in rows], apart, rtol=1e-9)


def test_a_pair_that_stands_still_has_no_wavelength_and_no_drift():
    rows = closed_form(ProportionalRoPE(8, 500.0, proportion=0.5), 131)
    assert rows[0]["drift"] > 0
    assert rows[3] == {"pair": 3, "wavelength": None, "rounded": None, "relative_change": 0.0, "drift": 0.0}


def test_an_error_is_that_of_means_of_blocks():
    means = normal_numbers(bit_source(3, "means"), 11)
    wanted = np.std(means, ddof=1) / np.sqrt(11)
    repeated = np.repeat(means, 64)
    assert block_error(repeated) == pytest.approx(wanted)  # neighbours are the same: 704 values are worth 11
    assert block_error(repeated) > 5 * np.std(repeated, ddof=1) / np.sqrt(704)
    assert block_error(np.arange(127.0)) is None
    assert block_error(np.arange(128.0)) == pytest.approx(32.0)  # means 31.5 and 95.5
    assert block_error(np.ones(191)) == 0


def test_the_change_of_the_loss_is_positive_where_tokens_become_less_likely():
    found = summary(np.full(128, -2.0), np.full(128, -2.5), np.full(128, 0.25))
    assert found == {
        **{"nats": 2.5, "perplexity": pytest.approx(np.exp(2.5))},
        **{"change": 0.5, "change_error": 0.0, "kl": 0.25, "kl_error": 0.0},
    }


def test_from_a_pair_on_is_free_only_where_all_slower_ones_are():
    def row(kind, index, kl):
        return {"kind": kind, "index": index, "kl": kl}

    runs = [row("own", None, 0.0), row("all", None, 0.2), row("layer", 0, 0.2), row("layer", 1, 0.001)]
    runs += [row("pair", i, kl) for i, kl in enumerate([0.2, 0.01, 0.002, 0.0])]
    runs += [row("from_pair", i, kl) for i, kl in enumerate([0.005, 0.02, 0.005, 0.0])]
    assert free(runs, 0.01) == {"tolerance": 0.01, "pairs": [2, 3], "layers": [1], "from_pair": 2}
    assert free(runs, 0.03)["from_pair"] == 0
    assert free([{**run, "kl": 1.0} for run in runs], 0.01)["from_pair"] is None


def test_as_many_read_together_as_memory_holds(monkeypatch):
    def room(most, config, batch, capacity, dtype):
        if batch * capacity > most:
            raise ValueError(f"{batch} times {capacity} do not fit")

    for most, wanted in ((900, 8), (899, 7), (300, 2), (200, 1)):
        monkeypatch.setattr(KVCache, "check_memory", partial(room, most))
        assert fitting(model_of(), 100) == wanted
    monkeypatch.setattr(KVCache, "check_memory", partial(room, 199))
    with pytest.raises(ValueError, match="2 times 100 do not fit"):
        fitting(model_of(), 100)


@pytest.mark.parametrize(
    ("name", "bug"),
    [
        ("rounded_source", lambda right: lambda e, part, *rest: right(e, part._replace(pairs=part.pairs[1:]), *rest)),
        ("rounded_source", lambda right: lambda e, part, layers, *rest: right(e, part, 1, *rest)),
        ("compare", lambda right: lambda *a, **k: [right(*a, **k)[0], right(*a, **k)[1][:, ::-1] * 1.001]),
        ("summary", lambda right: lambda own, mine, kl: right(mine, own, kl)),
    ],
)
def test_planted_bugs_are_noticed(name, bug, monkeypatch):
    monkeypatch.setattr(rounding, name, bug(getattr(rounding, name)))
    with pytest.raises((AssertionError, ValueError)):
        test_every_row_is_what_tables_made_by_hand_give()

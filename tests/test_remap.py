"""Position maps: the definition of each, and passes that cut up the square of pairs as it says."""

import math
from dataclasses import replace

import numpy as np
import pytest
from conftest import same_bits
from hypothesis import given
from hypothesis import strategies as st

from refrope.encodings import DynamicNTK, FoPE, ProportionalRoPE, Resonance, RoPE, XPos, YaRN
from refrope.encodings.remap import STRING, DualChunk, LeakyReRoPE, Pass, PositionMap, ReRoPE, SelfExtend

ENCODING = RoPE(10)
# Positions up to some hundred tokens divided by a slowdown, then subtracted: a few roundings of 2^-53 * 2^9.
DIVIDED = 1e-12


def every_map(most=9):
    """Maps of all kinds around every small boundary."""
    sizes = range(1, most)
    yield from (ReRoPE(ENCODING, w) for w in (*sizes, 40))
    yield from (LeakyReRoPE(ENCODING, w, k) for w in (*sizes, 40) for k in (1, 2, 3.5))
    yield from (
        SelfExtend(ENCODING, w, g, s) for w in (*sizes, 40) for g in (1, 2, 3, 7) for s in ("floor", "fraction")
    )
    yield from (DualChunk(ENCODING, c, local) for c in range(2, most + 4) for local in range(1, c))
    yield from (STRING(ENCODING, s, w, o) for s in (*sizes, 40) for w in range(1, s + 1) for o in (False, True))


def positions_by_pair(position_map, n):
    """For each pair (i, j), the list of q_position - k_position over the passes that see it."""
    pairs = {}
    for p in position_map.passes(n):
        rows, columns = range(n)[p.queries], range(n)[p.keys]
        assert len(p.q_positions) == len(rows)
        assert len(p.k_positions) == len(columns)
        for a, i in enumerate(rows):
            for b, j in enumerate(columns):
                back = a + len(columns) - len(rows) - b
                if not p.causal or (back >= 0 and (p.window is None or back < p.window)):
                    place = float(p.q_positions[a] - p.k_positions[b])
                    if position_map.places:
                        assert p.places[back if p.causal else b] == place
                    pairs.setdefault((i, j), []).append(place)
    return pairs


def defined_by_pair(position_map, n):
    """For each causal pair, the list of its effective positions, from the definition."""
    i, j = np.arange(n)[:, None], np.arange(n)
    once, twice = position_map.effective(i, j), position_map.second(i, j)
    return {
        (a, b): [once[a, b]] if math.isnan(twice[a, b]) else [once[a, b], twice[a, b]]
        for a in range(n)
        for b in range(a + 1)
        if not math.isnan(once[a, b])
    }


def assert_passes_are_the_definition(position_map, n):
    got, expected = positions_by_pair(position_map, n), defined_by_pair(position_map, n)
    assert got.keys() == expected.keys(), position_map
    for pair, places in expected.items():
        assert len(got[pair]) == len(places), (position_map, n, pair)
        assert np.allclose(sorted(got[pair]), sorted(places), rtol=0, atol=DIVIDED), (position_map, n, pair)


# ---- the definitions ----


@pytest.mark.parametrize(
    ("position_map", "expected"),
    [
        (ReRoPE(ENCODING, 3), [0, 1, 2, 3, 3, 3, 3, 3]),
        (LeakyReRoPE(ENCODING, 3, 2), [0, 1, 2, 3, 3.5, 4, 4.5, 5]),
        (STRING(ENCODING, 5, 2), [0, 1, 2, 3, 4, 2, 3, 4]),
        # Query 7, keys 7 .. 0, groups of 3: query group 2, key groups 2 2 1 1 1 0 0 0, shift 4 - 1.
        (SelfExtend(ENCODING, 4, 3), [0, 1, 2, 3, 4, 5, 5, 5]),
        (SelfExtend(ENCODING, 4, 3, "fraction"), [0, 1, 2, 3, 2 - 1 + 4 - 4 / 3, *[2 + 4 - 4 / 3] * 3]),
        # c = 3, query 7 = 2 * 3 + 1: own chunk 6 7, the one before at min(1 + 3, 5) - n mod 3, chunk 0 at 5 - n.
        (DualChunk(ENCODING, 5, 2), [0, 1, 2, 3, 4, 3, 4, 5]),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_effective_positions_of_the_last_of_eight_tokens(position_map, expected):
    assert position_map.effective(7, np.arange(8)[::-1]) == pytest.approx(expected, rel=0, abs=DIVIDED)


@given(st.integers(1, 50), st.floats(1, 40), st.integers(0, 400))
def test_leaky_rerope_is_interpolation_with_shifted_queries(window, slowdown, distance):
    f = LeakyReRoPE(ENCODING, window, slowdown).effective(distance, 0)
    official = (distance + window * (slowdown - 1)) / slowdown if distance >= window else distance
    assert f == pytest.approx(official, rel=1e-13)


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 300), st.integers(0, 300))
def test_the_two_shifts_of_self_extend_differ_by_the_rest_of_the_division(window, group, query, back):
    key = max(query - back, 0)
    floor, fraction = (SelfExtend(ENCODING, window, group, s).effective(query, key) for s in ("floor", "fraction"))
    rest = window % group / group if query - key >= window else 0
    assert floor - fraction == pytest.approx(rest, abs=DIVIDED)


@given(st.integers(2, 60), st.data(), st.integers(0, 500), st.integers(0, 500))
def test_dual_chunks_keep_near_distances_and_stay_within_the_chunk(chunk, data, query, back):
    local = data.draw(st.integers(1, chunk - 1))
    position_map = DualChunk(ENCODING, chunk, local)
    key = max(query - back, 0)
    f = float(position_map.effective(query, key))
    assert 0 <= f <= chunk
    # Beyond c - 1 a local window has no more effect: the pair may then be two chunks apart.
    if query - key <= min(local, position_map.size):
        assert f == query - key


def test_string_counts_a_pair_twice_only_where_it_is_told_to():
    i, j = np.arange(9)[:, None], np.arange(9)
    assert np.isnan(STRING(ENCODING, 4, 2).second(i, j)).all()
    twice = STRING(ENCODING, 4, 2, overlap=True).second(i, j)
    assert np.array_equal(~np.isnan(twice), i - j == 4)
    assert set(twice[i - j == 4]) == {4.0}


def test_the_scale_of_late_queries_grows_with_the_log_of_the_length():
    for position_map in (
        ReRoPE(ENCODING, 5, log_length=16),
        LeakyReRoPE(ENCODING, 5, 2, log_length=16),
        SelfExtend(ENCODING, 5, 2, log_length=16),
    ):
        assert position_map.query_scale([0, 3, 15]).tolist() == [1, 1, 1]
        assert position_map.query_scale([255, 4095]) == pytest.approx([2, 3], rel=1e-15)
        assert replace(position_map, log_length=None).query_scale([255]) == 1


# ---- passes ----


def test_passes_have_each_pair_once_at_its_effective_position():
    for position_map in every_map():
        for n in (0, 1, 2, 3, 5, 8, 9, 10, 17, 23):
            assert_passes_are_the_definition(position_map, n)


@st.composite
def maps(draw):
    """Any map, with sizes up to some 60 tokens."""
    size = draw(st.integers(1, 60))
    kind = draw(st.sampled_from(["rerope", "leaky", "self-extend", "dual", "string"]))
    if kind == "rerope":
        return ReRoPE(ENCODING, size)
    if kind == "leaky":
        return LeakyReRoPE(ENCODING, size, draw(st.floats(1, 64)))
    if kind == "self-extend":
        return SelfExtend(ENCODING, size, draw(st.integers(1, 70)), draw(st.sampled_from(["floor", "fraction"])))
    if kind == "dual":
        return DualChunk(ENCODING, size + 1, draw(st.integers(1, size)))
    return STRING(ENCODING, size, draw(st.integers(1, size)), draw(st.booleans()))


@given(maps(), st.integers(0, 64))
def test_passes_are_the_definition_for_any_sizes(position_map, n):
    assert_passes_are_the_definition(position_map, n)


def test_a_window_off_by_one_would_be_noticed():
    class OffByOne(ReRoPE):
        def passes(self, n):
            near, *far = super().passes(n)
            return (near._replace(window=near.window + 1), *far)

    with pytest.raises(AssertionError):
        assert_passes_are_the_definition(OffByOne(ENCODING, 3), 8)


@given(st.integers(0, 40), st.integers(1, 30))
def test_settings_without_effect_give_one_pass_with_the_tables_of_rope(n, size):
    cos, sin = ENCODING.cos_sin(np.arange(n), np.float64)
    for position_map in (
        ReRoPE(ENCODING, n + size),
        LeakyReRoPE(ENCODING, n + size, 3),
        LeakyReRoPE(ENCODING, size, 1),
        SelfExtend(ENCODING, n + size, 3),
        SelfExtend(ENCODING, size, 1),
        SelfExtend(ENCODING, size, 1, "fraction"),
        DualChunk(ENCODING, n + size + 1, 1),
        STRING(ENCODING, n + size, 1, overlap=True),
        STRING(ENCODING, size, size),
    ):
        (only,) = position_map.tables(n, np.float64)
        assert (only.queries, only.keys, only.causal, only.window) == (slice(0, n), slice(0, n), True, None)
        for tables in (only.q_tables, only.k_tables):
            if n > 1:
                assert same_bits(tables[0], cos)
                assert same_bits(tables[1], sin)


def test_check_effect_says_whether_any_pair_is_moved():
    for position_map in every_map(7):
        for n in range(26):
            i, j = np.arange(n)[:, None], np.arange(n)
            f, twice = position_map.effective(i, j), position_map.second(i, j)
            if ((f != i - j) | ~np.isnan(twice))[i >= j].any():
                position_map.check_effect(n)
            else:
                with pytest.raises(ValueError, match=r"^\w+: \w+ is .*, expected .*: nothing would be remapped$"):
                    position_map.check_effect(n)


# ---- tables ----


def test_passes_that_turn_tokens_alike_share_their_tables():
    counts = {
        ReRoPE(ENCODING, 8): (2, 2),
        LeakyReRoPE(ENCODING, 8, 2): (2, 2),
        SelfExtend(ENCODING, 8, 2): (2, 2),
        STRING(ENCODING, 8, 2): (2, 1),
        DualChunk(ENCODING, 8, 2): (3, 1),
    }
    for position_map, expected in counts.items():
        passes = position_map.tables(40)
        assert (len({id(p.q_tables) for p in passes}), len({id(p.k_tables) for p in passes})) == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("encoding", [ENCODING, YaRN(10, factor=4.0), Resonance(YaRN(10, factor=4.0))])
def test_tables_are_those_of_the_encoding_at_the_positions_of_a_pass(encoding, dtype):
    n = 29
    for position_map in (
        ReRoPE(encoding, 7),
        SelfExtend(encoding, 7, 3),
        DualChunk(encoding, 8, 3),
        STRING(encoding, 7, 3),
    ):
        for p, with_tables in zip(position_map.passes(n), position_map.tables(n, dtype), strict=True):
            assert with_tables[:4] == p[:4]
            for rows, places, tables in (
                (p.queries, p.q_positions, with_tables.q_tables),
                (p.keys, p.k_positions, with_tables.k_tables),
            ):
                expected = encoding.cos_sin(places, dtype)
                if tables is None:
                    assert (expected[0] == 1).all()
                    assert (expected[1] == 0).all()
                else:
                    assert same_bits(tables[0][rows], expected[0])
                    assert same_bits(tables[1][rows], expected[1])


def test_the_scale_of_queries_is_in_their_tables_alone():
    plain, scaled = ReRoPE(ENCODING, 3), ReRoPE(ENCODING, 3, log_length=4)
    scale = scaled.query_scale(np.arange(11))[:, None]
    for a, b in zip(plain.tables(11, np.float64), scaled.tables(11, np.float64), strict=True):
        rows = a.queries
        for table, other in zip(a.q_tables, b.q_tables, strict=True):
            assert same_bits(scale[rows] * table[rows], other[rows])
        if a.k_tables is not None:
            assert all(same_bits(x, y) for x, y in zip(a.k_tables, b.k_tables, strict=True))


def test_tables_of_any_passes_hold_what_these_say():
    """No map has such passes: whole positions in some rows, others elsewhere, and scaled queries at 0."""

    class Halves(PositionMap):
        def passes(self, n):
            rows = (slice(0, 2), slice(2, n))
            places = (np.arange(2), np.arange(n - 2) / 2)
            return tuple(Pass(r, r, True, None, np.zeros(len(p), int), p) for r, p in zip(rows, places, strict=True))

        def query_scale(self, queries):
            return np.full(np.shape(queries), 3.0)

    for p in Halves(ENCODING).tables(7, np.float64):
        start = p.keys.start
        cos, sin = ENCODING.cos_sin(np.arange(2) if start == 0 else np.arange(5) / 2, np.float64)
        assert same_bits(p.k_tables[0][p.keys], cos)
        assert same_bits(p.k_tables[1][p.keys], sin)
        assert (p.q_tables[0] == 3).all()
        assert (p.q_tables[1] == 0).all()


def test_an_encoding_that_depends_on_the_length_is_taken_at_that_length():
    encoding = DynamicNTK(10, factor=2.0, original_length=16)
    position_map = STRING(encoding, 9, 4, overlap=True)
    assert position_map.for_length(64) == STRING(encoding.for_length(64), 9, 4, overlap=True)
    assert position_map.for_length(64) != position_map
    assert ReRoPE(ENCODING, 256).for_length(2) == ReRoPE(ENCODING, 256)


# ---- errors ----


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ReRoPE(ENCODING, 0), "ReRoPE: window is 0, expected an integer >= 1"),
        (lambda: ReRoPE(ENCODING, 2.5), "ReRoPE: window is 2.5, expected an integer >= 1"),
        (lambda: ReRoPE(ENCODING, 4, log_length=1), "ReRoPE: log_length is 1, expected a finite number > 1"),
        (lambda: ReRoPE(RoPE(10, rotary_dim=4), 4, log_length=9), "4 features turn, expected all 10 where log_length"),
        (lambda: ReRoPE("rope", 4), "ReRoPE: encoding is 'rope', expected a RotaryEncoding"),
        (lambda: LeakyReRoPE(ENCODING, 4, 0.5), "LeakyReRoPE: slowdown is 0.5, expected a finite number >= 1"),
        (lambda: SelfExtend(ENCODING, 0, 2), "SelfExtend: window is 0, expected an integer >= 1"),
        (lambda: SelfExtend(ENCODING, 4, 0), "SelfExtend: group is 0, expected an integer >= 1"),
        (lambda: SelfExtend(ENCODING, 4, 2, "flor"), "SelfExtend: unknown shift 'flor'; did you mean 'floor'?"),
        (lambda: DualChunk(ENCODING, 4, 4), "DualChunk: chunk is 4, expected more than the local window 4"),
        (lambda: DualChunk(ENCODING, 4, 0), "DualChunk: local is 0, expected an integer >= 1"),
        (lambda: STRING(ENCODING, 4, 5), "STRING: window is 5, expected at most shift = 4"),
        (lambda: STRING(ENCODING, 0, 1), "STRING: shift is 0, expected an integer >= 1"),
        (lambda: STRING(ENCODING, 4, 2, overlap=1), "STRING: overlap is 1, expected True or False"),
        (lambda: ReRoPE(XPos(10), 4), "ReRoPE: encoding is XPos, whose tables do more than turn"),
        (lambda: ReRoPE(Resonance(XPos(10)), 4), "ReRoPE: encoding is XPos, whose tables do more than turn"),
        (lambda: STRING(FoPE(10, padding="ones"), 4, 2), "STRING: encoding is FoPE, whose tables do more than turn"),
        (lambda: LeakyReRoPE(Resonance(ENCODING), 4, 2), "slowdown is 2, which makes positions between tokens"),
        (lambda: SelfExtend(Resonance(ENCODING), 5, 2, "fraction"), "shift is 'fraction', which makes"),
        (lambda: ReRoPE(ENCODING, 4).passes(-1), "ReRoPE.passes: n is -1, expected an integer >= 0"),
        (lambda: DualChunk(ENCODING, 4, 1).passes(-1), "DualChunk.passes: n is -1, expected an integer >= 0"),
        (lambda: ReRoPE(ENCODING, 4).check_effect(-1), "ReRoPE.check_effect: length is -1, expected an integer >= 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_its_name(make, message):
    with pytest.raises(ValueError, match="^.*" + message.replace("(", r"\(").replace("?", r"\?")):
        make()


def test_a_window_beyond_the_length_is_named_with_both():
    message = "^ReRoPE: window is 256, expected less than the length 256: nothing would be remapped$"
    with pytest.raises(ValueError, match=message):
        ReRoPE(ENCODING, 256).check_effect(256)


def test_resonance_takes_the_maps_that_keep_positions_whole():
    encoding = Resonance(YaRN(10, factor=4.0))
    for position_map in (
        *(ReRoPE(encoding, 4), SelfExtend(encoding, 5, 3), SelfExtend(encoding, 6, 3, "fraction")),
        *(DualChunk(encoding, 5, 2), STRING(encoding, 5, 2), LeakyReRoPE(encoding, 4, 1)),
        LeakyReRoPE(Resonance(RoPE(10), "before"), 4, 2),
    ):
        assert len(position_map.tables(20)) == (1 if getattr(position_map, "slowdown", 2) == 1 else 2) or isinstance(
            position_map, DualChunk
        )


def test_encodings_whose_tables_only_turn_are_taken():
    for encoding in (FoPE(10), ProportionalRoPE(10, proportion=0.5), RoPE(10, rotary_dim=4), YaRN(10, factor=2.0)):
        assert ReRoPE(encoding, 4).head_dim == 10


def test_a_map_without_a_definition_says_so():
    for call in ("effective", "passes", "check_effect"):
        arguments = (3, 2) if call == "effective" else (3,)
        with pytest.raises(NotImplementedError, match=r"^PositionMap "):
            getattr(PositionMap(ENCODING), call)(*arguments)

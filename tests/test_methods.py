"""Every method of telling positions, through the whole model: gradients, twins, causality, caches; their list."""

import re
from dataclasses import replace

import numpy as np
import pytest
from conftest import BACKENDS

from refrope import RoPE, Transformer, TransformerConfig
from refrope.encodings.position_map import PositionMap
from refrope.methods import MAPS, METHODS, PAPER, Lengths, configuration_of, encoding_of, listing
from refrope.nn import KVCache, layers
from refrope.nn.attending import rotation_of
from refrope.nn.gradcheck import gradient_error
from refrope.report import LABELS, PAPER_OOD

# Five-point differences in float64 through two layers, over steps short enough to meet no kink of a ReLU: the rounding
# of a loss of some 10, over the step, relative to gradients down to 6e-4.
GRADIENT = 1e-6
STEP = 1e-5
# Softmax does not see a number that is the same for all keys: the gradient of an output bias is nothing but rounding.
NOTHING = 1e-12
BACKENDS64 = 1e-12  # both backends in float64: the order of sums differs
BACKENDS32 = 3e-5  # float32, logits of size one through two layers
CACHED = 1e-12  # the same sums in other pieces
VOCABULARY, LENGTH, TRAIN = 11, 13, 9
SIZES = TransformerConfig(vocabulary=VOCABULARY, d_model=10, heads=3, head_dim=6, d_ff=14, layers=2)
both = pytest.mark.parametrize("backend", BACKENDS)
every = pytest.mark.parametrize("name", METHODS)


def tokens(batch=2, length=LENGTH, seed=0):
    return np.random.default_rng(seed).integers(0, VOCABULARY, (batch, length))


def built(name, backend, dtype=np.float64, dropout=0.0):
    """A model of the method with weights that no two biases share, and what turns its queries and keys."""
    config = replace(configuration_of(name, SIZES, TRAIN, LENGTH), dropout=dropout)
    model = Transformer(config, seed=1, backend=backend, dtype=dtype)
    return model, rotation_of(encoding_of(name, 6, Lengths(TRAIN, LENGTH)), LENGTH, dtype)


@both
@every
def test_every_gradient_of_the_model(backend, name):
    model, rotation = built(name, backend)
    generator = np.random.default_rng(1)
    targets, weights = generator.integers(0, VOCABULARY, 2 * LENGTH), np.arange(2 * LENGTH) % 3.0
    start = {key: value.copy() for key, value in model.params.items()}

    def loss(params):
        for key, value in params.items():
            model.params[key][...] = value
        logits = model.forward(tokens(), rotation)
        return layers.cross_entropy_forward(logits.reshape(-1, VOCABULARY), targets, weights)[0]

    logits = model.forward(tokens(), rotation, keep=True)
    _, probabilities = layers.cross_entropy_forward(logits.reshape(-1, VOCABULARY), targets, weights)
    gradients = model.backward(layers.cross_entropy_backward(probabilities, targets, weights))
    gradients = {key: value.copy() for key, value in gradients.items()}
    assert set(gradients) == set(model.config.shapes())
    alone = ["layers.1.bias.table"] if name == "pointers" else []  # a query of its second layer sees one key
    for key, gradient in gradients.items():
        if key.endswith("out.bias") or key in alone:
            assert np.abs(gradient).max() < NOTHING
        else:
            assert np.abs(gradient).max() > 1e-6, key
            assert gradient_error(loss, start, {key: gradient}, step=STEP) < GRADIENT, key


@pytest.mark.skipif("c" not in BACKENDS, reason="the C kernels are not built")
@pytest.mark.parametrize(("dtype", "bound"), [(np.float64, BACKENDS64), (np.float32, BACKENDS32)])
@every
def test_backends_agree(name, dtype, bound):
    results = []
    for backend in ("numpy", "c"):
        model, rotation = built(name, backend, dtype)
        logits = model.forward(tokens(), rotation, keep=True).copy()
        gradients = model.backward(logits - 1)
        results.append({"logits": logits, **{key: value.copy() for key, value in gradients.items()}})
    for key, slow in results[0].items():
        assert slow.dtype == dtype
        assert np.abs(results[1][key] - slow).max() <= bound * max(1, np.abs(slow).max()), key


@both
@every
def test_changing_a_token_changes_no_output_before_it(backend, name):
    model, rotation = built(name, backend)
    before = model.forward(tokens(), rotation).copy()
    changed = tokens()
    changed[:, 7] = (changed[:, 7] + 1) % VOCABULARY
    after = model.forward(changed, rotation)
    np.testing.assert_array_equal(after[:, :7], before[:, :7])
    assert (after[:, 7:] != before[:, 7:]).any()


@both
@every
def test_a_longer_text_begins_with_the_logits_of_the_shorter(backend, name):
    model, rotation = built(name, backend)
    whole = model.forward(tokens(), rotation).copy()
    encoding = encoding_of(name, 6, Lengths(TRAIN, LENGTH))
    part = model.forward(tokens()[:, :9], rotation_of(encoding, 9, np.float64))
    np.testing.assert_allclose(part, whole[:, :9], rtol=0, atol=CACHED)


@both
@pytest.mark.parametrize("name", [name for name in METHODS if name not in (*MAPS, "pointers")])
def test_pieces_with_a_cache_give_the_logits_of_the_whole(backend, name):
    model, rotation = built(name, backend)
    whole = model.forward(tokens(), rotation).copy()
    cache = KVCache(model.config, batch=2, capacity=LENGTH, dtype=np.float64)
    pieces = []
    for start, stop in ((0, 5), (5, 6), (6, 7), (7, LENGTH)):
        piece = None if rotation is None else tuple(table[start:stop] for table in rotation)
        pieces.append(model.forward(tokens()[:, start:stop], piece, cache=cache).copy())
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, rtol=0, atol=CACHED)


@both
@pytest.mark.parametrize("name", [*MAPS, "pointers"])
def test_a_map_and_a_cache_are_refused_in_words(backend, name):
    model, rotation = built(name, backend)
    cache = KVCache(model.config, batch=2, capacity=LENGTH, dtype=np.float64)
    with pytest.raises(ValueError, match="a position map with a cache, bias or window, expected the map alone"):
        model.forward(tokens(), rotation, cache=cache)


@both
@pytest.mark.parametrize("name", [name for name in METHODS if name not in MAPS])
def test_a_batch_in_parts_is_the_batch(backend, name):
    model, rotation = built(name, backend, dropout=0.3)
    whole = model.forward(tokens(3), rotation, dropout_seed=5).copy()
    parts = [model.forward(tokens(3)[i : i + 1], rotation, dropout_seed=5, first=i).copy() for i in range(3)]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=CACHED)


@both
def test_a_sequences_own_positions_are_those_of_the_sequence_alone(backend):
    model, _ = built("rope", backend)
    places = np.stack([np.arange(LENGTH), np.arange(LENGTH) * 3])
    encoding = RoPE(6)
    together = model.forward(tokens(), encoding.cos_sin(places, np.float64)).copy()
    for i in range(2):
        alone = model.forward(tokens()[i : i + 1], encoding.cos_sin(places[i], np.float64))
        np.testing.assert_allclose(alone, together[i : i + 1], rtol=0, atol=CACHED)


@both
@pytest.mark.parametrize("name", ["t5", "alibi", "kerple", "fire", "dape", "dape-v2", "sinusoidal", "learned"])
def test_positions_with_gaps_reach_biases_and_embeddings(backend, name):
    config = configuration_of(name, SIZES, TRAIN, 40)
    model = Transformer(config, seed=1, backend=backend, dtype=np.float64)
    usual = model.forward(tokens(), None).copy()
    given = model.forward(tokens(), None, positions=np.arange(LENGTH)).copy()
    np.testing.assert_array_equal(given, usual)
    sparse = model.forward(tokens(), None, positions=np.arange(LENGTH) * 3).copy()
    assert np.abs(sparse - usual).max() > 1e-6
    # A gap before all tokens changes distances to nothing: biases by distance alone do not see it.
    shifted = model.forward(tokens(), None, positions=np.arange(LENGTH) + 2)
    if name in ("t5", "alibi", "kerple", "dape", "dape-v2"):
        np.testing.assert_array_equal(shifted, usual)


@both
def test_the_gradient_of_a_bias_with_gaps_is_right(backend):
    config = configuration_of("kerple", SIZES, TRAIN, 40)
    model = Transformer(config, seed=1, backend=backend, dtype=np.float64)
    places = np.array([0, 1, 3, 4, 5, 9, 10, 12, 20, 21, 22, 30, 39])
    start = {key: value.copy() for key, value in model.params.items()}
    upstream = np.random.default_rng(3).standard_normal((2, LENGTH, VOCABULARY))

    def loss(params):
        for key, value in params.items():
            model.params[key][...] = value
        return float((model.forward(tokens(), None, positions=places) * upstream).sum())

    model.forward(tokens(), None, positions=places, keep=True)
    gradients = {key: value.copy() for key, value in model.backward(upstream).items() if "bias" in key}
    assert len(gradients) == 4
    assert gradient_error(loss, start, gradients, step=STEP) < GRADIENT


def test_weights_that_methods_share_start_alike():
    plain, _ = built("rope", BACKENDS[0])
    for name in METHODS:
        model, _ = built(name, BACKENDS[0])
        for key, value in plain.params.items():
            np.testing.assert_array_equal(model.params[key], value, err_msg=f"{name} {key}")


def test_t5_has_one_table_and_the_others_one_set_a_layer():
    assert [key for key in built("t5", BACKENDS[0])[0].params if "bias" in key] == ["bias.table"]
    assert [key for key in built("kerple", BACKENDS[0])[0].params if "bias" in key] == [
        f"layers.{i}.bias.{w}" for i in range(2) for w in "pa"
    ]


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("lengths", [(65, 257), (65, 1025), (64, 256), (8, 13)])
def test_maps_keep_the_positions_of_the_test_within_training(name, lengths):
    lengths = Lengths(*lengths)
    encoding = encoding_of(name, 64, lengths)
    assert isinstance(encoding, PositionMap)
    places = np.arange(lengths.test)
    effective = encoding.effective(places[:, None], places)[np.tri(lengths.test, dtype=bool)]
    if name != "string":  # it shifts distances down and leaves no bound
        assert effective.max() < lengths.train


def test_the_list_has_a_line_for_each_method_with_its_source():
    lines = listing().splitlines()
    assert [line.split()[0] for line in lines] == list(METHODS) == list(LABELS)
    for line, method in zip(lines, METHODS.values(), strict=True):
        assert method.about in line
        assert re.search(r"(arXiv:\d{4}\.\d{5}|kexue\.fm/archives/\d+|ours: encodings/\w+\.py)$", line)
        assert len(line) <= 120


def test_the_papers_methods_come_first():
    assert tuple(METHODS)[:4] == PAPER
    assert all(tuple(figures) == PAPER for figures in PAPER_OOD.values())


@pytest.mark.parametrize("function", [encoding_of, configuration_of])
def test_an_unknown_name_is_told_the_nearest(function):
    arguments = (64, Lengths(65, 257)) if function is encoding_of else (SIZES, 65, 257)
    with pytest.raises(ValueError, match=f"{function.__name__}: .*'alibbi'.*alibi"):
        function("alibbi", *arguments)

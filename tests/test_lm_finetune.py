"""refrope.lm.finetuning: what trains and how, the same held-out tokens before and after, memory and disk said first."""

from __future__ import annotations

import shutil
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest
from conftest import BACKENDS, same_bits
from lm_files import random_model, write_gguf
from lm_finetuning import CONTEXT, settings_for, write_sources

from refrope import DynamicNTK, Resonance, RoPE, YaRN
from refrope.lm.finetuning.needs import trained_weights
from refrope.lm.finetuning.runs import runs_of
from refrope.lm.finetuning.settings import FROZEN, FinetuneSettings
from refrope.lm.finetuning.sources import checkpoint_digest, encode, save_sources, saved_tokens, sources_of
from refrope.lm.loading import read_checkpoint
from refrope.lm.scoring import token_log_likelihoods
from refrope.lm.swapping import rotation_source, with_softmax_factor
from refrope.lm.training.texts import read_texts
from refrope.lm.training.windows import WindowTraining, held_out_windows
from refrope.nn.optim import WarmUp
from refrope.randomness import bit_source
from refrope.train_positions import PoSE
from refrope.train_step import frozen_names
from refrope.training import STEADY_BETA2, Plan

CONFIG = random_model().config
# Sums of a few hundred float32 losses, in pieces of another length.
ROUNDING = 2e-5
UNTOUCHED = 7.25  # no gradient is that


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("finetune") / "sources")


@pytest.fixture(scope="module")
def begun(directory, tmp_path_factory):
    """A directory as the command begins it, and what its runs begin with."""
    out = tmp_path_factory.mktemp("finetune") / "out"
    out.mkdir()
    sources, encoded, _ = sources_of(settings_for(directory))
    save_sources(out, sources, encoded)
    return out, sources, encoded


def run_of(begun, settings, encoding, seed=3):
    return next(r for r in runs_of(settings, begun[1]) if (r.name_of_encoding, r.seed) == (encoding, seed))


# ---- how long and how fast ----


def test_a_rate_rises_in_a_line_and_stays():
    schedule = WarmUp(2e-5, 4)
    assert [schedule.at(step)[0] for step in (0, 1, 3, 4, 900)] == pytest.approx([5e-6, 1e-5, 2e-5, 2e-5, 2e-5])
    assert {schedule.at(step)[1] for step in range(9)} == {0.9}
    assert WarmUp(0.1, 0).at(0) == (0.1, 0.9)
    with pytest.raises(ValueError, match="WarmUp: steps is -1"):
        WarmUp(0.1, -1)


def test_a_plan_without_a_constant_rate_is_what_it_was():
    model = random_model()
    one_cycle, steady = Plan(1, 9, 0.1), Plan(1, 9, 0.1, constant_after=2)
    assert type(one_cycle.schedule()).__name__ == "OneCycle"
    assert one_cycle.optimizer(model).beta2 == 0.999
    assert steady.schedule() == WarmUp(0.1, 2)
    assert steady.optimizer(model).beta2 == STEADY_BETA2 == 0.95
    with pytest.raises(ValueError, match="Plan: constant_after is -1"):
        Plan(1, 9, 0.1, constant_after=-1)


@pytest.mark.parametrize(("steps", "warm_up"), [(1, 1), (39, 1), (50, 2), (400, 20), (3000, 20)])
def test_the_warm_up_is_a_share_of_the_steps(steps, warm_up):
    plan = FinetuneSettings("m", steps).plan(CONFIG)
    assert plan.constant_after == warm_up
    assert plan.steps == steps
    assert plan.epochs <= 10
    assert plan.weight_decay == 0
    assert FinetuneSettings("m", steps, warm_up=7).plan(CONFIG).constant_after == 7


def test_attention_means_norms_and_attention():
    for tied in (True, False):
        config = replace(CONFIG, tied=tied)
        frozen = FinetuneSettings("m", 1, trained="attention").plan(config).frozen
        left = {name for name in config.shapes() if not any(fnmatchcase(name, pattern) for pattern in frozen)}
        of_layer = ("attention.gain", "attention.qkv", "attention.out", "feed_forward.gain")
        assert left == {"final.gain", *(f"layers.{i}.{name}" for i in range(2) for name in of_layer)}
    assert FinetuneSettings("m", 1).plan(CONFIG).frozen == ()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"encodings": ("yran",)}, "lm finetune: unknown encoding 'yran'; did you mean 'yarn'"),
        ({"encodings": ()}, "encodings are"),
        ({"factor": 0.5}, "factor is 0.5"),
        ({"steps": 0}, "steps is 0"),
        ({"length": 4}, "length is 4"),
        ({"trained": "norms"}, "unknown trained 'norms'"),
        ({"positions": "posse"}, "did you mean 'pose'"),
        ({"seeds": (1, 1)}, "seeds are"),
        ({"warm_up": -1}, "warm_up is -1"),
        ({"test_lengths": (4,)}, "test_length is 4"),
        ({"corpora": ("topic",)}, "did you mean 'topics'"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"encodings": ("dynamic-ntk:length=512",)}, "dynamic-ntk:length=512 has a length, expected none"),
    ],
)
def test_settings_are_checked(changed, said):
    with pytest.raises(ValueError, match=said):
        FinetuneSettings(**{"model": "m", "steps": 1} | changed)


# ---- texts ----


def test_texts_are_the_models_tokens_with_its_end_between_them(directory):
    checkpoint = read_checkpoint(directory / "model")
    texts = read_texts((), [str(directory / "texts")])
    encoded = encode(checkpoint, texts)
    (end,) = checkpoint.eos
    parts = np.split(encoded.line, np.flatnonzero(encoded.line == end))
    assert [checkpoint.tokenizer.decode(part[1:].tolist()) for part in parts[1:-1]] == list(texts.training.values())
    assert len(encoded.held_out) == len(texts.held_out)
    assert checkpoint.tokenizer.decode(encoded.held_out[0].tolist()) == next(iter(texts.held_out.values()))
    with pytest.raises(ValueError, match="names no token that ends a text"):
        encode(replace(checkpoint, eos=()), texts)


def test_tokens_are_kept_and_damage_is_seen(begun, tmp_path):
    out, sources, encoded = begun
    again = saved_tokens(out, sources)
    assert same_bits(again.line, encoded.line)
    assert all(same_bits(a, b) for a, b in zip(again.held_out, encoded.held_out, strict=True))
    (path,) = (out / "tokens").iterdir()
    other = tmp_path / "tokens" / path.name
    other.parent.mkdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    other.write_bytes(data)
    assert saved_tokens(tmp_path, sources) is None
    assert saved_tokens(tmp_path / "nowhere", sources) is None


def test_texts_that_are_split_in_another_way_are_other_tokens(directory, tmp_path):
    model = write_gguf(tmp_path / "model.gguf", random_model())
    texts = Path(shutil.copytree(directory / "texts", tmp_path / "texts"))
    for path in texts.iterdir():
        path.write_text("12 cats and " + path.read_text(encoding="utf-8"), encoding="utf-8")
    settings = replace(settings_for(directory), model=str(model), texts=(str(texts),))
    found = []
    for pre in (None, "gpt-2"):  # the file says that digits are tokens of their own
        sources, encoded, _ = sources_of(replace(settings, pre=pre), tmp_path)
        save_sources(tmp_path, sources, encoded)
        assert same_bits(saved_tokens(tmp_path, sources).line, encoded.line)
        found.append(encoded.line.tolist())
    assert found[0] != found[1]
    assert len(list((tmp_path / "tokens").iterdir())) == 2


def test_a_generation_config_that_comes_later_makes_another_checkpoint(directory, tmp_path):
    shutil.copytree(directory / "model", tmp_path / "model")
    before = checkpoint_digest(read_checkpoint(tmp_path / "model"))
    (tmp_path / "model" / "generation_config.json").write_text('{"eos_token_id": 5}')
    again = read_checkpoint(tmp_path / "model")
    assert again.eos == (5,)
    assert checkpoint_digest(again) != before


def test_windows_may_share_what_is_not_scored():
    texts = [np.arange(1000, 1000 + n) for n in (13, 30)]
    found = held_out_windows(texts, 13, 99, scored=5)
    # 13 tokens are too few for 13 and the one after; 30 hold windows from 0, 5, 10 and 15 on.
    assert found[:, 0].tolist() == [1000, 1005, 1010, 1015]
    scored = found[:, -5:]
    assert len(np.unique(scored)) == scored.size
    fewer = held_out_windows(texts, 13, 2, scored=5)[:, 0].tolist()
    assert len(fewer) == 2
    assert set(fewer) < {1000, 1005, 1010, 1015}


# ---- what trains ----


def test_pose_gives_each_window_positions_of_its_own_up_to_the_limit():
    model, places = random_model(), PoSE(4 * CONTEXT)
    encoding = YaRN(10, factor=4.0, original_length=CONTEXT)
    training = WindowTraining(
        *(model, encoding, np.arange(250) % 200, Plan(1, 2, 1e-3, part_tokens=16)),
        **{"length": 16, "batch_size": 3, "seed": 5},
        places=places,
    )
    twin = bit_source(5, "positions of training tokens")
    farthest = 0
    for _ in range(30):
        batch = training.batch_of(np.array([0, 7, 99]))
        positions = places.drawn(twin, 3, 16)
        farthest = max(farthest, positions.max())
        assert batch.positions is None
        assert same_bits(batch.tables[0], encoding.cos_sin(positions, np.float32)[0])
        assert batch.inputs[1].tolist() == list(range(7, 23))
    assert 3 * CONTEXT < farthest < 4 * CONTEXT
    dynamic = DynamicNTK(10, factor=2.0, original_length=CONTEXT)
    training = WindowTraining(
        *(model, dynamic, np.arange(250) % 200, Plan(1, 2, 1e-3)),
        **{"length": 16, "batch_size": 3, "seed": 5},
        places=places,
    )
    positions = places.drawn(bit_source(5, "positions of training tokens"), 3, 16)
    cos, _ = dynamic.for_length(4 * CONTEXT).cos_sin(positions, np.float32)
    assert same_bits(training.batch_of(np.array([0, 7, 99])).tables[0], cos)  # not that of the farthest drawn
    with pytest.raises(ValueError, match="PoSE: limit is 8, expected at least the 16"):
        WindowTraining(
            *(model, encoding, np.arange(250) % 200, Plan(1, 2, 1e-3)),
            **{"length": 16, "batch_size": 3, "seed": 5},
            places=PoSE(8),
        )


def test_frozen_weights_keep_their_bits_and_all_others_move(begun, directory):
    settings = settings_for(directory, trained="attention")
    prepared = run_of(begun, settings, "yarn").prepare(begun[0])
    before = {name: weight.copy() for name, weight in prepared.model.params.items()}
    training = prepared.training()
    training.run()
    frozen = settings.plan(CONFIG).frozen
    for name, weight in prepared.model.params.items():
        assert same_bits(weight, before[name]) == any(fnmatchcase(name, pattern) for pattern in frozen), name
    assert len(training.state().moment1) == trained_weights(settings, CONFIG) < CONFIG.size() / 2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("tied", [True, False])
def test_gradients_that_nobody_asks_for_are_not_written_and_change_no_other(backend, tied):
    model = random_model(tied=tied, backend=backend)
    tokens = np.arange(2 * 7).reshape(2, 7) * 17 % model.config.vocabulary
    tables = RoPE(10).cos_sin(np.arange(7), np.float32)
    upstream = np.sin(np.arange(2.0 * 7 * model.config.vocabulary)).astype(np.float32).reshape(2, 7, -1)

    def gradients(skip):
        model.forward(tokens, tables, keep=True)
        return model.backward(upstream.copy(), out=np.full_like(model.flat_params, UNTOUCHED), skip=skip)

    everything = gradients(())
    assert not any((gradient == UNTOUCHED).any() for gradient in everything.values())
    for skip in (FROZEN["attention"], ("embedding",), ("layers.1.attention.qkv", "layers.0.attention.out")):
        names = frozen_names(model.config.shapes(), [name for name in skip if name != "head" or not tied])
        for name, gradient in gradients(names).items():
            assert (gradient == UNTOUCHED).all() if name in names else same_bits(gradient, everything[name]), name


def test_rows_before_training_are_scores_by_hand(begun, directory):
    settings = settings_for(directory, encodings=("resonance-yarn", "yarn:mscale=1,mscale_all_dim=0.8"))
    for name in ("none", *settings.encodings):
        run = run_of(begun, settings, name, None)
        prepared = run.prepare(begun[0])
        assert prepared.training() is None
        for test in run.tests():
            row = prepared.row(test)
            encoding = {
                "none": RoPE(10, 50_000.0),
                "resonance-yarn": Resonance(YaRN(10, 50_000.0, factor=2.0, original_length=CONTEXT)),
            }.get(name, YaRN(10, 50_000.0, factor=2.0, original_length=CONTEXT, mscale=1.0, mscale_all_dim=0.8))
            model = with_softmax_factor(random_model(), encoding.softmax_factor)
            windows = prepared.windows[:, -test.length - 1 :]
            scores = [token_log_likelihoods(model, w, rotation_source(encoding, np.float32)) for w in windows]
            by_hand = [-each[-settings.scored :].mean() for each in scores]
            assert row["loss_by_window"] == pytest.approx(by_hand, rel=ROUNDING)
            assert row["loss"] == pytest.approx(np.mean(by_hand), rel=ROUNDING)
            assert (row["seed"], row["steps"], row["encoding"]) == (None, 0, name)
            text = prepared.tokenizer.decode(windows[0, -settings.scored :].tolist())
            assert row["tested_bytes"] >= len(text.encode(errors="replace"))


def test_all_lengths_score_the_same_tokens(begun, directory):
    settings = settings_for(directory)
    run = run_of(begun, settings, "none", None)
    prepared = run.prepare(begun[0])
    assert settings.scored == 32
    rows = [prepared.row(test) for test in run.tests()]
    assert len({(row["tested_tokens"], row["tested_bytes"]) for row in rows}) == 1
    assert [len(row["loss_by_position"]) for row in rows] == [1, 2, 3]


# ---- names ----


def test_what_changes_weights_changes_the_name_and_nothing_else_does(begun, directory):
    base = settings_for(directory)

    def names(settings, sources=begun[1]):
        return {(run.name_of_encoding, run.seed): run.name for run in runs_of(settings, sources)}

    known = names(base)
    assert len(set(known.values())) == 5
    assert names(replace(base, test_lengths=(48,), windows=2)) == known
    kinds = {"trained": "attention", "positions": "consecutive", "steps": 5, "learning_rate": 2e-3, "length": 33}
    for changed in ({name: value} for name, value in kinds.items()):
        other = names(replace(base, **changed))
        assert other["yarn", 3] != known["yarn", 3], changed
        assert other["none", None] == known["none", None]
    assert names(replace(base, factor=3.0))["yarn", None] != known["yarn", None]
    assert not set(names(base, begun[1]._replace(checkpoint="other")).values()) & set(known.values())


def test_another_checkpoint_under_the_same_path_is_refused(begun, directory, tmp_path):
    shutil.copytree(directory / "model", tmp_path / "model")
    settings = replace(settings_for(directory), model=str(tmp_path / "model"))
    run = run_of(begun, settings, "yarn")
    run.prepare(begun[0])
    tokenizer = tmp_path / "model" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    with pytest.raises(ValueError, match=r"the checkpoint .* has SHA-256 .*, expected .*, that of lm-finetune-yarn-s3"):
        run.prepare(begun[0])
    with pytest.raises(ValueError, match=r"the tokens of the texts in .* are gone or damaged"):
        run_of(begun, settings_for(directory), "yarn").prepare(tmp_path)

"""The benchmark: what it compares, that it checks before it times, and what it writes. Never how fast."""

import json
import re
import sys

import numpy as np
import pytest
from conftest import BACKENDS, slow

from refrope import RoPE, TransformerConfig, cli, kernels
from refrope.bench import cases, command, kernel_cases, lm_cases, step_cases, timing
from refrope.nn.decoding import Decoding

pytestmark = pytest.mark.skipif("c" not in BACKENDS, reason="the C kernels are not built")


def test_tasks_take_turns_and_a_run_after_others_of_the_same_counts(monkeypatch):
    order, now = [], [0.0]
    monkeypatch.setattr(timing, "SETTLE_SECONDS", 2.5)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def task(name, seconds):
        order.append(name)
        now[0] += seconds

    tasks = {"a": lambda: task("a", 0.5), "b": lambda: task("b", 9.0)}
    times = timing.interleaved(tasks, 3)
    assert "".join(order) == "aaaaaab" * 4  # 5 runs of half a second, then the one that counts; a long one at once
    assert times == {"a": timing.Spread(0.5, 0.5, 0.5), "b": timing.Spread(9.0, 9.0, 9.0)}


def test_a_wrong_result_is_an_error_and_nothing_is_timed(monkeypatch, capsys):
    def never():
        raise AssertionError("timed")

    wrong = [cases.Case("wrong", never, check=lambda error=error: error, bound=1e-6) for error in (1e-5, float("nan"))]
    for case in wrong:
        monkeypatch.setattr(command, "_cases", lambda *_, case=case: [case])
        assert cli.main(["bench", "--only", "layers"]) == 1
        assert re.search(r"bench: wrong: error (1e-05|nan), expected at most 1e-06", capsys.readouterr().err)


def test_a_broken_kernel_is_noticed(monkeypatch):
    right = kernels.relu_forward
    monkeypatch.setattr(kernels, "relu_forward", lambda x, out=None: right(x, out=out) + np.float32(1e-3))
    broken = [case for case in kernel_cases.layer_cases(torch=False) if case.name.startswith("ReLU forward")]
    with pytest.raises(cases.CheckError, match="ReLU forward"):
        cases.check(broken[0])


def test_every_kernel_case_is_right():
    for case in kernel_cases.layer_cases(torch=False) + kernel_cases.attention_cases(torch=False, long=False):
        assert cases.check(case) <= case.bound, case.name
        assert case.work > 0


@pytest.mark.parametrize("sequences", [16, pytest.param(step_cases.SEQUENCES, marks=slow)])
def test_steps_are_compared_with_their_products_and_written_as_json(sequences, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(step_cases, "SEQUENCES", sequences)
    monkeypatch.setattr(timing, "SETTLE_SECONDS", 0)  # the times are looked at for their form alone
    file = tmp_path / "bench.json"
    assert cli.main(["bench", "--only", "steps,memory", "--repeats", "1", "--json", str(file)]) == 0
    said = capsys.readouterr().out
    for words in ("own matrix products", "tiny: step, no dropout", "tiny: step, dropout 0.1", "Resonance RoPE"):
        assert words in said
    numbers = re.search(r"Tables for 256 positions.*RoPE (\d+) bytes, Resonance RoPE (\d+) bytes", said)
    assert numbers[1] == numbers[2] == str(2 * 256 * 32 * 4)  # Resonance's tables are no larger
    report = json.loads(file.read_text())
    assert report["machine"]["cpu"]
    step = report["cases"][0]
    assert step["rate"] == pytest.approx(step["work"] / step["seconds"]["median"] / 1e9)
    assert step["floor"]["ratio"] == pytest.approx(step["seconds"]["median"] / step["floor"]["seconds"]["median"])
    memory = report["memory"]["tiny"]
    assert memory["peak"] <= 1.2 * memory["activations"]


def test_flops_and_activations_are_those_of_the_sizes():
    config = TransformerConfig(vocabulary=11, d_model=10, heads=3, head_dim=6, d_ff=14, layers=2)
    weights = 2 * (10 * 54 + 18 * 10 + 2 * 10 * 14) + 10 * 11
    assert step_cases.products_flops(config, rows=7) == 6 * 7 * weights
    layer = 10 + 10 + 1 + 54 + 18 + 3 + 10 + 10 + 1 + 14  # x n 1/rms qkv o lse, x n 1/rms h
    assert step_cases.activation_bytes(config, rows=7) == 4 * 7 * (2 * layer + 10 + 10 + 1 + 11)


SMALL = TransformerConfig(
    **{"vocabulary": 13, "d_model": 12, "heads": 2, "kv_heads": 1, "head_dim": 6, "d_ff": 10, "layers": 2},
    **{"feed_forward": "swiglu", "softmax_scale": None, "head_scale": 1.0},
)


def test_a_language_models_products_are_those_of_its_sizes():
    weights = 2 * (12 * 24 + 12 * 12 + 12 * 20 + 10 * 12) + 12 * 13
    pairs = 7 * 8 / 2
    assert lm_cases.products_flops(SMALL, 7) == 2 * 7 * weights + 2 * 2 * 6 * 2 * 2 * pairs


def test_language_models_read_and_go_on_as_a_whole_forward_does(monkeypatch):
    for name, value in (("SIZES", SMALL), ("PROMPT", 40), ("CHUNK", 16), ("CONTEXT", 9)):
        monkeypatch.setattr(lm_cases, name, value)
    prefill, decode = lm_cases.lm_cases(torch=False)
    for case in (prefill, decode):
        assert cases.check(case) <= case.bound
        assert case.floor is not None
        case.floor[1]()
    model = lm_cases.random_model(SMALL, "numpy")
    cos_sin = RoPE(6, base=lm_cases.BASE).cos_sin
    tokens = np.arange(40)[None] * 7_919 % 13
    whole = model.forward(tokens, cos_sin(np.arange(40)))[0, -1].copy()
    assert prefill.ours() == pytest.approx(whole, abs=1e-5)
    more = np.concatenate([tokens[:, :9], tokens[:, 8:9]], axis=1)
    whole = model.forward(more, cos_sin(np.arange(10)))[0, -1].copy()
    for _ in range(2):
        assert decode.ours() == pytest.approx(whole, abs=1e-5)


def test_a_wrong_new_token_is_noticed(monkeypatch):
    for name, value in (("SIZES", SMALL), ("PROMPT", 40), ("CHUNK", 16), ("CONTEXT", 9)):
        monkeypatch.setattr(lm_cases, name, value)
    right = Decoding.forward
    monkeypatch.setattr(Decoding, "forward", lambda self, x, *rest: right(self, x, *rest) or x.__iadd__(0.01))
    with pytest.raises(cases.CheckError, match="prefill, 40 tokens"):
        cases.check(lm_cases.lm_cases(torch=False)[0])


def test_every_group_has_cases_and_an_unknown_one_is_named(monkeypatch, capsys):
    made = []
    for name in ("rotary_cases", "attention_cases", "layer_cases", "step_cases", "evaluation_case", "lm_cases"):
        monkeypatch.setattr(command, name, lambda *a, name=name, **k: made.append((name, *a)) or [name])
    assert command._cases("rotary", ["tiny"], False, False) == ["rotary_cases"]
    assert command._cases("attention", ["tiny"], False, True) == ["attention_cases"]
    assert command._cases("layers", ["tiny"], False, False) == ["layer_cases"]
    assert command._cases("steps", ["tiny", "paper"], False, False) == ["step_cases"] * 2
    assert command._cases("evaluation", ["tiny", "paper"], False, False) == [["evaluation_case"]]
    assert made[3:] == [("step_cases", "tiny"), ("step_cases", "paper"), ("evaluation_case", "tiny")]
    assert command._cases("lm", ["tiny"], False, False) == ["lm_cases"]
    monkeypatch.undo()
    assert cli.main(["bench", "--only", "layer"]) == 2
    assert "unknown only 'layer'; did you mean 'layers'?" in capsys.readouterr().err
    assert cli.main(["bench", "--only", ","]) == 2
    assert "--only is ',', expected some of rotary, " in capsys.readouterr().err


def test_the_comparison_with_pytorch_says_when_there_is_none(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert cli.main(["bench", "--torch"]) == 2
    assert "--torch needs PyTorch, which is not installed here (pip install torch)" in capsys.readouterr().err

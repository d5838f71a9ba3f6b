"""Every C function refuses sizes that no memory could hold, before it touches any."""

import json
import subprocess
import sys

import pytest
from conftest import BACKENDS

from refrope.kernels._native_loader import native

pytestmark = pytest.mark.skipif("c" not in BACKENDS, reason="the C kernels are not built")

# The sizes of a call that fits, in the order of the C function's arguments; `first` and `last` come at the end.
SIZES = {
    "rotate": {"heads": 2, "rows": 3, "features": 8, "start": 0, "pairs": 4, "first": 0, "last": 4},
    "rotate_periodic": {
        **{"batches": 2, "heads": 2, "features": 8, "start": 0, "pairs": 4},
        **{"first": 0, "last": 3},
    },
    "attention_forward": {"heads": 2, "kv_heads": 1, "n_q": 3, "n_k": 5, "d": 8, "window": 0, "first": 0, "last": 4},
    "attention_backward": {"heads": 2, "kv_heads": 1, "n_q": 3, "n_k": 5, "d": 8, "window": 0, "first": 0, "last": 2},
    "rmsnorm_forward": {"d": 8, "first": 0, "last": 3},
    "rmsnorm_backward": {"d": 8, "rows": 3, "block": 2, "first": 0, "last": 2},
    "cross_entropy_forward": {"classes": 8, "first": 0, "last": 3},
    "cross_entropy_backward": {"classes": 8, "first": 0, "last": 3},
    "swiglu_forward": {"features": 8, "first": 0, "last": 3},
    "swiglu_backward": {"features": 8, "first": 0, "last": 3},
    "row_product": {"k": 8, "step": 8, "first": 0, "last": 8},
    "decode": {
        **{"layers": 2, "d_model": 8, "heads": 2, "kv_heads": 1, "d": 16, "d_ff": 8, "capacity": 5, "length": 3},
        **{"window": 0, "thread": 0, "threads": 1},
    },
    "relu_forward": {"first": 0, "last": 8},
    "relu_backward": {"first": 0, "last": 8},
    "dropout": {"first": 0, "last": 8},
    "adamw": {"parts": 2, "size": 8, "first": 0, "last": 8},
    "embedding_forward": {"d": 8, "first": 0, "last": 3},
    "embedding_backward": {"rows": 3, "d": 8, "first": 0, "last": 8},
}
HOSTILE = [-1, -(2**62), -(2**63), 2**63 - 1, 2**62, 2**61, 2**60]
# Nothing but a limit: which slices form a batch, how many rows form a block, where the second range ends.
ANY_MAY_FIT = {("rotate", "heads"), ("attention_forward", "heads"), ("rmsnorm_backward", "block")}
LENGTHS = {"rows", "features", "batches", "n_k", "d", "classes", "last", "parts", "size", "k", "step"}
LENGTHS |= {"d_model", "d_ff", "layers", "capacity"}
STRIDED = ["rotate", "rotate_periodic", "attention_forward", "attention_backward", "swiglu_forward", "swiglu_backward"]


def hostile_calls():
    """(kernel, what is hostile, sizes, stride) of every call that must be refused."""
    for name, sizes in SIZES.items():
        for size in sizes:
            for value in HOSTILE:
                # With `first` beyond `last` there is no range; a `start` or `first` of 2^60 lies outside the array.
                if value < 0 or (name, size) not in ANY_MAY_FIT:
                    yield name, f"{size} = {value}", {**sizes, size: value}, 8
        # Each size for itself is below 2^40, their product is beyond 2^63.
        large = dict.fromkeys(LENGTHS & sizes.keys(), 2**40)
        if len(large) > 1:
            yield name, "products beyond 2^63", {**sizes, **large}, 8
        if name in ("adamw", "embedding_backward"):
            yield name, "a range beyond the array", {**sizes, "last": 9}, 8
        for stride in (2**62, -(2**62), 2**60, -(2**63), 2**63 - 1) if name in STRIDED else ():
            yield name, f"strides {stride}", sizes, stride


# In a process of its own: what is not refused would touch address 4096, which nobody has.
PROGRAM = """
import json, sys
from refrope.kernels._native_loader import native
ffi, lib = native()
for line in sys.stdin:
    name, what, sizes, stride = json.loads(line)
    for kind in ("f32", "f64"):
        function = getattr(lib, f"rr_{name}_{kind}")
        left, arguments = list(sizes.values()), []
        for argument in ffi.typeof(function).args:
            if argument.cname == "ptrdiff_t":
                arguments.append(left.pop(0))
            elif argument.cname == "ptrdiff_t *":
                arguments.append([stride] * 5)
            else:
                arguments.append(ffi.cast(argument, 4096) if argument.kind == "pointer" else 0)
        assert not left
        print(function(*arguments), flush=True)
"""


def test_every_function_is_in_the_table():
    _, lib = native()
    kernels = {n.removeprefix("rr_") for n in dir(lib) if n.startswith("rr_")}
    assert kernels == {f"{n}_{k}" for n in SIZES for k in ("f32", "f64")} | {
        *("attention_scratch", "decode_scratch", "compiler", "flags", "simd"),
    }


def test_hostile_sizes_are_refused_untouched():
    calls = list(hostile_calls())
    lines = "\n".join(map(json.dumps, calls))
    done = subprocess.run([sys.executable, "-c", PROGRAM], input=lines, capture_output=True, text=True, timeout=300)
    answers = done.stdout.split()
    told = [(calls[i // 2][:2], answer) for i, answer in enumerate(answers) if answer != "1"]
    assert told == []
    assert len(answers) == 2 * len(calls), f"crashed at {calls[len(answers) // 2][:2]}: {done.stderr}"


@pytest.mark.parametrize("d", [0, -1, 2**50, 2**61, 2**63 - 1])
def test_no_scratch_for_hostile_sizes(d):
    _, lib = native()
    assert lib.rr_attention_scratch(5, d, 0) == -1
    assert lib.rr_attention_scratch(5, d, 1) == -1
    assert lib.rr_attention_scratch(-1, 8, 1) == -1
    assert lib.rr_attention_scratch(2**63 - 1, 8, 1) == lib.rr_attention_scratch(512, 8, 1) > 0
    assert lib.rr_decode_scratch(8, 4, 2, d, 8, 3) == -1
    for i in range(6):
        sizes = [8, 4, 2, 16, 8, 3]
        assert lib.rr_decode_scratch(*sizes) > 0
        sizes[i] = d if d != 2**50 else 2**60
        assert lib.rr_decode_scratch(*sizes) == -1

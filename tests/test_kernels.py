"""The compiled module: what it says of itself, threads, and what happens without it."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import BACKENDS
from threadpoolctl import threadpool_info

import refrope
from refrope import kernels
from refrope.kernels import _native_loader, threads


def test_the_kernels_are_built_where_they_are_required():
    required = os.environ.get("REFROPE_REQUIRE_EXT", "") not in ("", "0")
    assert kernels.available() or not required, kernels.missing_reason()


@pytest.mark.skipif("c" not in BACKENDS, reason="the C kernels are not built")
def test_build_info_says_what_is_in_use():
    info = kernels.build_info()
    assert info["available"] is True
    assert any(name in info["compiler"] for name in ("gcc", "clang", "msvc"))
    assert "-ffp-contract=off" in info["flags"] or info["compiler"] == "msvc"
    assert info["simd"]
    assert info["threads"] == kernels.get_num_threads()


def test_without_the_kernels_everything_says_so_and_nothing_falls_back(monkeypatch, capsys):
    monkeypatch.setattr(_native_loader, "_native", None)
    monkeypatch.setattr(_native_loader, "_reason", "no module named _native")
    info = kernels.build_info()
    assert info["available"] is False
    assert "install a C compiler" in info["remedy"]
    with pytest.raises(RuntimeError, match=r"no module named _native.*install a C compiler"):
        kernels.rotate(np.zeros((1, 2)), np.ones((1, 1)), np.zeros((1, 1)))
    with pytest.raises(RuntimeError, match="install a C compiler"):
        refrope.Transformer(refrope.TransformerConfig(), seed=1, backend="c")
    from refrope.cli import main

    assert main(["inspect", "rope", "--head-dim", "8"]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("refrope: running as slow pure NumPy, the C kernels are missing: install a C compiler")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_ranges_cover_everything_once_in_order(n):
    before = kernels.get_num_threads()
    kernels.set_num_threads(n)
    try:
        for count in (1, 2, 3, 7, 64):
            seen = []
            assert threads.run_ranges(lambda a, b, seen=seen: seen.append((a, b)) or 0, count) == [0] * min(n, count)
            assert [i for a, b in sorted(seen) for i in range(a, b)] == list(range(count))
    finally:
        kernels.set_num_threads(before)


def test_an_error_in_one_range_is_not_lost():
    before = kernels.get_num_threads()
    kernels.set_num_threads(2)

    def task(first, last):
        if first:
            raise MemoryError("of the second range")
        return 0

    try:
        with pytest.raises(MemoryError, match="second range"):
            threads.run_ranges(task, 10)
    finally:
        kernels.set_num_threads(before)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_parts_are_done_once_each_and_workers_do_not_share_one(n):
    before, busy = kernels.get_num_threads(), set()
    kernels.set_num_threads(n)

    def task(worker, part):
        assert worker < n
        assert worker not in busy
        busy.add(worker)
        # Kernels and parts inside a part stay on its thread.
        assert threads.run_ranges(lambda first, last: last - first, 7) == [7]
        assert kernels.run_parts(lambda inner, i: (inner, i), 3) == [(0, 0), (0, 1), (0, 2)]
        busy.remove(worker)
        return part**2

    try:
        for count in (0, 1, 2, 17):
            assert kernels.run_parts(task, count) == [part**2 for part in range(count)]
    finally:
        kernels.set_num_threads(before)


def test_an_error_in_a_part_waits_for_the_others():
    before, done = kernels.get_num_threads(), []
    kernels.set_num_threads(2)

    def task(worker, part):
        if part == 0:
            raise FloatingPointError("of part 0")
        time.sleep(0.05)
        done.append(part)

    try:
        with pytest.raises(FloatingPointError, match="of part 0"):
            kernels.run_parts(task, 2)
        finished = list(done)
        time.sleep(0.1)
        assert done == finished
    finally:
        kernels.set_num_threads(before)


def _blas_threads():
    return max(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")


def test_parts_run_on_one_blas_thread_whichever_thread_asks():
    # threadpoolctl 3.8 obeys the first thread that asks, and ignores all others in silence.
    before = kernels.get_num_threads()
    kernels.set_num_threads(3)
    barrier = threading.Barrier(2)

    def task(worker, part):
        return _blas_threads()

    def parts(_):
        barrier.wait(10)
        return kernels.run_parts(task, 2)

    try:
        assert kernels.run_parts(task, 2) == [1, 1]
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(parts, range(2))) == [[1, 1], [1, 1]]
        assert _blas_threads() == 3  # as it was, when the last of them is done
        with ThreadPoolExecutor(1) as pool:
            pool.submit(kernels.set_num_threads, 2).result()
        assert _blas_threads() == 2
    finally:
        kernels.set_num_threads(before)


@pytest.mark.parametrize("bad", [0, -1, 1.5, "2", True])
def test_number_of_threads_is_checked(bad):
    with pytest.raises(ValueError, match="set_num_threads: n is"):
        kernels.set_num_threads(bad)


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


def test_the_environment_sets_the_threads():
    code = "import refrope; print(refrope.get_num_threads())"
    assert run_python(code, REFROPE_NUM_THREADS="3").stdout == "3\n"
    assert "REFROPE_NUM_THREADS is 'two'" in run_python(code, REFROPE_NUM_THREADS="two").stderr


@pytest.mark.skipif(not hasattr(os, "fork") or "c" not in BACKENDS, reason="needs fork and the C kernels")
def test_a_forked_child_can_use_threads():
    code = """
import os, warnings
import numpy as np, refrope
warnings.simplefilter("ignore")
refrope.set_num_threads(2)
x, tables = np.ones((4, 8, 8)), refrope.RoPE(8).cos_sin(np.arange(8), np.float64)
refrope.kernels.rotate(x, *tables)
child = os.fork()
if child == 0:
    refrope.kernels.rotate(x, *tables)
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run_python(code).stdout == "7\n"


def test_importing_loads_neither_plots_nor_progress():
    code = (
        "import sys, refrope; print([m for m in ('matplotlib', 'tqdm', 'threadpoolctl', 'torch') if m in sys.modules])"
    )
    assert run_python(code).stdout == "[]\n"

"""One setting for the number of threads, and the pool that spreads independent slices over them.

The kernels themselves know nothing of threads, but for `decode`, whose threads meet within the call. A call is cut into
ranges of (batch, head) slices or rows; each range is one C call, and cffi releases the interpreter lock during it. No
range depends on another, so the result has the same bits for any number of threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import pairwise
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")

_num_threads: int | None = None
_pool: ThreadPoolExecutor | None = None
_blas_users = 0  # blocks of `single_blas_thread` in all threads
_blas_before: Any = None  # what puts BLAS back as it was before the first of them
_lock = threading.Lock()  # of the pool and of BLAS: several trainings may run in threads of one process
_thread = threading.local()  # .whole is True in a thread that works on a part of its own


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def get_num_threads() -> int:
    """The number of threads that the kernels use: as set, else REFROPE_NUM_THREADS, else one a core."""
    if _num_threads is not None:
        return _num_threads
    text = os.environ.get("REFROPE_NUM_THREADS")
    if text is None:
        return available_cores()
    if not text.strip().isdecimal() or int(text) < 1:
        raise ValueError(f"REFROPE_NUM_THREADS is {text!r}, expected a whole number of at least 1")
    return int(text)


def set_num_threads(n: int) -> None:
    """Use `n` threads in the C kernels and, where threadpoolctl is installed, in NumPy's BLAS.

    The kernels give the same bits for any `n`. A BLAS does not promise that.

    Raises
    ------
    ValueError
        `n` is not a whole number of at least 1.
    """
    global _num_threads  # noqa: PLW0603
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"set_num_threads: n is {n!r}, expected a whole number of at least 1")
    _num_threads = n
    controller = _blas_controller()
    with _lock:
        _close_pool()
        if controller is not None:
            _take_control()
            controller.limit(limits=n, user_api="blas")


@lru_cache(maxsize=1)
def _blas_controller() -> Any:
    """What sets the number of threads of NumPy's BLAS; None where threadpoolctl is not installed."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController()


def _take_control() -> None:
    """Let this thread set BLAS's number: threadpoolctl 3.8 takes it from one thread and silently ignores the others.

    It cannot know that ours agree on it, under `_lock`.
    """
    import threadpoolctl

    clear = getattr(getattr(threadpoolctl, "OpenBLASController", None), "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)


@contextmanager
def single_blas_thread() -> Iterator[None]:
    """Let NumPy's BLAS use one thread inside the block, and `refrope.kernels.matmul` spread its rows over ours.

    A BLAS's own threads wait for each other by spinning. As soon as another program wants a core, each product takes
    many times as long; our threads sleep while they wait. Without threadpoolctl nothing changes.
    """
    global _blas_users, _blas_before  # noqa: PLW0603
    controller = _blas_controller()
    if controller is None:
        yield
        return
    with _lock:
        if not _blas_users:
            _take_control()
            _blas_before = controller.limit(limits=1, user_api="blas")
        _blas_users += 1
    try:
        yield
    finally:
        with _lock:
            _blas_users -= 1
            if not _blas_users:
                _take_control()
                _blas_before.restore_original_limits()


def blas_is_single() -> bool:
    """True while any thread is inside `single_blas_thread`."""
    return _blas_users > 0


def run_ranges(task: Callable[[int, int], int], count: int) -> list[int]:
    """Call ``task(first, last)`` on consecutive ranges that cover [0, count), one a thread; their return values.

    Inside `run_parts` all of it is one range, on the thread that asks.
    """
    threads = 1 if _in_a_part() else min(get_num_threads(), count)
    if threads <= 1:
        return [task(0, count)]
    bounds = [count * i // threads for i in range(threads + 1)]
    return _together([partial(task, *r) for r in pairwise(bounds)])


def threads_in_step(most: int) -> int:
    """How many threads `run_in_step` may be given: as many as the kernels use, but `most`, and one inside a part."""
    return 1 if _in_a_part() else min(get_num_threads(), most)


def run_in_step(task: Callable[[int], int], threads: int, call_off: Callable[[], None]) -> list[int]:
    """``task(thread)`` on `threads` threads at the same time, for work in which they wait for each other.

    `call_off` is called where one of them does not come, since it was interrupted or failed: the others must not wait.
    """

    def careful(thread: int) -> int:
        try:
            return task(thread)
        except BaseException:
            call_off()
            raise

    return _together([partial(careful, thread) for thread in range(threads)], call_off)


def run_parts(task: Callable[[int, int], Result], count: int) -> list[Result]:
    """``[task(worker, part) for part in range(count)]``, whole parts spread over the threads.

    A part is work of many calls, such as the way of some sequences through a model. The kernels and matrix products in
    it stay on its thread, so that its result does not depend on the number of threads. Two tasks that run at the same
    time have different workers, 0 <= worker < `parts_at_once`.
    """
    workers = max(1, min(parts_at_once(), count))
    waiting: SimpleQueue[int] = SimpleQueue()
    for part in range(count + workers):  # those from `count` on tell a worker that it is done
        waiting.put(part)
    results: dict[int, Result] = {}

    def work(worker: int) -> None:
        inside, _thread.whole = _in_a_part(), True
        try:
            while (part := waiting.get()) < count:
                results[part] = task(worker, part)
        finally:
            _thread.whole = inside

    with single_blas_thread():
        _together([partial(work, worker) for worker in range(workers)])
    return [results[part] for part in range(count)]


def parts_at_once() -> int:
    """How many parts `run_parts` works on at the same time: the number of threads, but one inside a part.

    One, too, where threadpoolctl is missing: products at one time, each on all of BLAS's threads, wait for each other.
    """
    return 1 if _in_a_part() or _blas_controller() is None else get_num_threads()


def _in_a_part() -> bool:
    return getattr(_thread, "whole", False)


def _together(tasks: Sequence[Callable[[], Result]], call_off: Callable[[], None] = lambda: None) -> list[Result]:
    """The results of all tasks, run at the same time; an error of one is raised when none runs any more."""
    if len(tasks) == 1:
        return [tasks[0]()]
    futures: list[Future[Result]] = []
    try:
        with _lock:  # nobody closes the pool in between
            for task in tasks[1:]:
                futures.append(_get_pool(len(tasks) - 1).submit(task))
        first = tasks[0]()  # the calling thread works too
    except BaseException:
        call_off()
        raise
    finally:
        wait(futures)
    return [first, *(future.result() for future in futures)]


def _get_pool(workers: int) -> ThreadPoolExecutor:
    global _pool  # noqa: PLW0603
    if _pool is None or _pool._max_workers < workers:
        _close_pool()
        _pool = ThreadPoolExecutor(workers, thread_name_prefix="refrope")
    return _pool


def _close_pool() -> None:
    global _pool  # noqa: PLW0603
    if _pool is not None:
        _pool.shutdown(wait=False)  # under the lock, which its tasks may want: they end, and nobody waits here
        _pool = None


def _forget_pool() -> None:
    """A forked child has none of its parent's threads: it must not wait for them, nor for what they hold."""
    global _pool, _lock, _blas_users
    _pool, _lock, _blas_users = None, threading.Lock(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)

"""Worker processes that never outlive the command that started them, however that ends.

Ctrl-C reaches every process of a terminal: workers leave it to the command. SIGTERM reaches the command alone, which
takes it for an interrupt (`terminable`) and ends its workers. SIGKILL gives it no time for anything: each worker
watches for that itself (`end_with_parent`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, ParamSpec, TypeVar

from refrope import kernels

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
TERMINATED = 128 + signal.SIGTERM  # a shell's status of a command that SIGTERM ended; 130 is that of Ctrl-C


class Terminated(KeyboardInterrupt):
    """SIGTERM came where `terminable` expects it."""


@contextmanager
def terminable() -> Iterator[None]:
    """Inside the block SIGTERM raises `Terminated`, once: the next one ends the process in the usual way.

    Only the main thread may handle signals; in another one the block changes nothing.
    """

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def start_worker() -> None:
    """What a worker does first: one thread, deaf to Ctrl-C, and gone when its parent is.

    For the `initializer` of a pool of spawned processes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    kernels.set_num_threads(1)


def end_with_parent() -> None:
    """From now on end this process, whatever it is at, when the one that started it is gone."""
    threading.Thread(target=_wait_for_parent, name="end with parent", daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "end_with_parent is for processes that multiprocessing has started"
    parent.join()
    os._exit(1)  # from a thread nothing gentler ends a process that is busy in another one


@contextmanager
def worker_pool(processes: int, start: Callable[[], None] = start_worker) -> Iterator[ProcessPoolExecutor]:
    """So many spawned processes of one thread each, of which each calls `start` first.

    Where the block ends by an exception, an interrupt too, nobody waits for what the workers are at: they are ended.
    """
    others = multiprocessing.active_children()
    with _Pool(processes, multiprocessing.get_context("spawn"), start) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                if process not in others:
                    process.terminate()
            raise


class _Pool(ProcessPoolExecutor):
    """Starts workers that do not hear Ctrl-C even before `start_worker`: processes inherit what is held back."""

    def submit(
        self, function: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Future[Result]:
        """As a pool does, with Ctrl-C held back while it may start a worker."""
        with _ctrl_c_held_back():
            return super().submit(function, *args, **kwargs)


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before: Any = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

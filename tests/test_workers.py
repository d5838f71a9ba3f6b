"""Worker processes end with the command that started them, however that ends; what it finished is kept."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from refrope import workers

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="asks for process groups")
MANY = ",".join(map(str, range(200)))  # trainings enough for any test to end before they do
QUICK = ["--train-sequences", "128", "--test-sequences", "8", "--epochs", "1", "--encodings", "rope", "--seeds", MANY]
PATIENCE = 60  # seconds that a busy machine may take for what takes one

BEATING = """
import os, sys, threading, time
from refrope.workers import start_worker, terminable, worker_pool

def beat(name):
    while True:
        with open(name, "a") as file:
            file.write(".")
        time.sleep(0.02)

if __name__ == "__main__":
    with worker_pool(2) as pool:
        for future in [pool.submit(beat, name) for name in sys.argv[1:]]:
            future.result()
"""


def happens(what):
    end = time.monotonic() + PATIENCE
    while not (happened := what()) and time.monotonic() < end:
        time.sleep(0.05)
    return happened


def started(*command, folder):
    """The command in a process group of its own, which is that of its workers, too."""
    # A shell's background job ignores SIGINT and hands that down to its children; a handler of ours it does not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, *command], cwd=folder, start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)


def is_empty(group):
    """No process of it is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture
def groups():
    """Process groups that a failing test leaves to us."""
    found = []
    yield found
    for process in found:
        if not is_empty(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def training(tmp_path, groups, processes):
    """A command that has finished a training and is at the next ones."""
    (tmp_path / "matplotlib.py").write_text("raise ImportError")  # figures would take longer than the rest
    command = ["-m", "refrope", "posgen", *QUICK, "--processes", str(processes), "--out", str(tmp_path)]
    process = started(*command, folder=tmp_path)
    groups.append(process)
    assert happens((tmp_path / "results.json").exists)
    return process


@pytest.mark.parametrize(
    ("processes", "to_all", "number", "status", "word"),
    [
        (1, True, signal.SIGTERM, 143, "terminated"),
        (2, False, signal.SIGTERM, 143, "terminated"),
        (2, True, signal.SIGINT, 130, "interrupted"),  # as a terminal sends it
    ],
)
def test_what_was_finished_is_kept_and_no_process_is_left(tmp_path, groups, processes, to_all, number, status, word):
    process = training(tmp_path, groups, processes)
    (os.killpg if to_all else os.kill)(process.pid, number)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == status, err
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["complete"] is False
    assert err == f"refrope: {word}; {len(results['runs'])} finished rows are kept\n"
    assert results["runs"]
    assert "ID %" in out  # the table of what was finished
    assert happens(lambda: is_empty(process.pid))


def test_a_worker_that_is_busy_ends_when_its_command_is_killed(tmp_path, groups):
    (tmp_path / "beating.py").write_text(BEATING)
    names = ["one", "other"]
    process = started("beating.py", *names, folder=tmp_path)
    groups.append(process)
    assert happens(lambda: all((tmp_path / name).exists() for name in names))
    process.kill()
    process.wait()
    assert happens(lambda: is_empty(process.pid))
    sizes = [(tmp_path / name).stat().st_size for name in names]
    time.sleep(0.5)
    assert [(tmp_path / name).stat().st_size for name in names] == sizes


def test_workers_begin_deaf_to_ctrl_c():
    with workers.worker_pool(1) as pool:
        # One that begins to ignore it in `start_worker` would show a traceback if Ctrl-C came while it is importing.
        held_back = pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, []).result(PATIENCE)
        assert signal.SIGINT in held_back
        assert pool.submit(signal.getsignal, signal.SIGINT).result(PATIENCE) == signal.SIG_IGN
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_sigterm_is_an_interrupt_once_and_then_what_it_was():
    before = signal.getsignal(signal.SIGTERM)
    inside = []
    try:
        with workers.terminable():
            inside.append(signal.getsignal(signal.SIGTERM))
            os.kill(os.getpid(), signal.SIGTERM)
    except workers.Terminated:
        inside.append("terminated")
    assert inside == [inside[0], "terminated"]
    assert inside[0] != before
    assert signal.getsignal(signal.SIGTERM) == before
    with workers.terminable():
        pass
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_impatient_send_sigterm_twice(tmp_path, groups):
    (tmp_path / "slow.py").write_text(
        "import time\n"
        "from refrope.workers import terminable\n"
        "with terminable():\n"
        "    try:\n"
        "        print('begun', flush=True)\n"
        "        time.sleep(60)\n"
        "    except KeyboardInterrupt:\n"
        "        print('cleaning up', flush=True)\n"
        "        time.sleep(60)\n"
    )
    process = started("slow.py", folder=tmp_path)
    groups.append(process)
    for word in ("begun\n", "cleaning up\n"):
        assert process.stdout.readline() == word
        process.terminate()
    process.communicate(timeout=PATIENCE / 2)
    assert process.returncode == -signal.SIGTERM

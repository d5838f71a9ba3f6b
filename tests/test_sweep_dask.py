"""A sweep on a Dask cluster of this machine: a worker is killed on the way, the results are those of one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("distributed", reason="the extra [dask] is not installed")

from distributed import Client, LocalCluster
from test_sweep_kills import COMPARED, arguments

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of Dask and what it needs
]


def _command(directory, *more):
    command = [sys.executable, "-m", "refrope", *arguments(directory), "--checkpoint-every", "0.5", *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def _files(directory):
    return {f"{p.parent.name}/{p.name}": p.read_bytes() for name in COMPARED for p in directory.rglob(name)}


@pytest.fixture
def cluster():
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        yield cluster


def test_a_killed_dask_worker_changes_no_bit(tmp_path, cluster):
    serial = _command(tmp_path / "serial", "--processes", "1")
    assert serial.returncode == 0, serial.stderr
    killed = []

    def kill_one_at_work():
        deadline = time.monotonic() + 300
        with Client(cluster.scheduler_address) as client:
            while not killed and time.monotonic() < deadline:
                # As soon as there is a checkpoint, a training is under way.
                busy = [a for a, tasks in client.processing().items() if tasks]
                if busy and list((tmp_path / "dask").rglob("checkpoint-*")):
                    pid = client.run(os.getpid, workers=busy[:1])[busy[0]]
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                time.sleep(0.05)

    killer = threading.Thread(target=kill_one_at_work)
    killer.start()
    done = _command(tmp_path / "dask", "--dask", cluster.scheduler_address)
    killer.join()
    assert killed, "no worker was at work long enough"
    assert done.returncode == 0, done.stdout + done.stderr
    assert _files(tmp_path / "dask") == _files(tmp_path / "serial")
    assert len(_files(tmp_path / "dask")) == 2 * 3


def test_a_wrong_address_is_one_line(tmp_path):
    done = _command(tmp_path / "out", "--dask", "nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("refrope: sweep: no Dask scheduler at nowhere")
    assert len(done.stderr.splitlines()) == 1

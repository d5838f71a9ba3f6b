"""Commands that are killed with all their workers, for the tests of what can go on afterwards."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path


def kill_at_random(command: list[str], out: Path, *, seed: int, times: int, share: float) -> None:
    """Begin a command so many times, and kill it each time after its first checkpoint in `out`.

    It has up to `share` of the time since the first beginning.
    """
    source, began = random.Random(seed), time.monotonic()
    for _ in range(times):
        process = subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        waited = time.monotonic()
        # Not before it has begun, however slow the machine is.
        while process.poll() is None and not list(out.rglob("checkpoint-*")) and time.monotonic() < waited + 120:
            time.sleep(0.02)
        time.sleep(source.uniform(0, (time.monotonic() - began) * share))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

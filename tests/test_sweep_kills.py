"""A small sweep, killed again and again at random moments, and what must be left of it: every result, bit for bit.

``python tests/test_sweep_kills.py --kills 1000`` counts what was lost, damaged or different; as a test it is slow, and
has fewer kills.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pytest

# Three trainings of five epochs of two steps: about four seconds with two processes, starting them included.
SWEEP = (
    "--tasks cot --encodings rope,resonance-yarn,alibi --seeds 3 --epochs 5 --train-sequences 160 --test-sequences 8"
)
COMPARED = ("result.json", "weights.npz")
LEFT_OVER = ("*.part", "checkpoint-*", "progress.json", "tested.json")


class Count(NamedTuple):
    """How it ended."""

    kills: int
    sweeps: int
    different: list[str]


def arguments(directory: Path) -> list[str]:
    """Those of ``refrope``, but for who does it."""
    return ["sweep", *SWEEP.split(), "--out", str(directory)]


def start(directory: Path, processes: int) -> subprocess.Popen[bytes]:
    """The sweep's command, in a session of its own, with a checkpoint after every step."""
    command = [sys.executable, "-m", "refrope", *arguments(directory)]
    command += ["--processes", str(processes), "--checkpoint-every", "0"]
    with (directory.parent / "log.txt").open("ab") as log:
        return subprocess.Popen(command, start_new_session=True, stdout=log, stderr=log)


def finish(directory: Path, processes: int) -> dict[str, bytes]:
    """Run the sweep to its end; the files that must not differ."""
    process = start(directory, processes)
    assert process.wait(timeout=600) == 0, (directory.parent / "log.txt").read_text(encoding="utf-8")[-2000:]
    return {
        f"{run.name}/{name}": (run / name).read_bytes()
        for run in sorted((directory / "runs").iterdir())
        for name in COMPARED
    }


def kill(process: subprocess.Popen[bytes], whom: str) -> None:
    """SIGKILL for the command and its workers, for the command alone, or for one worker alone."""
    if whom == "all":
        os.killpg(process.pid, signal.SIGKILL)
    elif whom == "command":
        os.kill(process.pid, signal.SIGKILL)
    else:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
        if children:
            os.kill(int(random.choice(children)), signal.SIGKILL)
        return  # the command goes on
    process.wait(timeout=60)


def kill_again_and_again(kills: int, seed: int, *, report: bool = False) -> Count:
    """So many kills, over as many sweeps as they need; each that ends is compared with one that nobody disturbed."""
    source = random.Random(seed)
    random.seed(seed)
    done, sweeps, different = 0, 0, []
    with tempfile.TemporaryDirectory() as place:
        expected = finish(_new(Path(place) / "undisturbed"), 1)
        began = time.monotonic()
        finish(_new(Path(place) / "timed"), 2)
        length = time.monotonic() - began
        while done < kills:
            sweeps += 1
            directory = _new(Path(place) / f"sweep-{sweeps}")
            process = start(directory, source.choice((1, 2)))
            # More kills than a sweep lives through: it is let go on after some of them.
            for _ in range(source.randint(1, 20)):
                time.sleep(source.uniform(0, length / 2))
                if process.poll() is not None:
                    break
                kill(process, source.choice(("all", "command", "worker")))
                done += 1
                if process.poll() is not None:
                    process = start(directory, source.choice((1, 2)))
            process.wait(timeout=600)
            found = finish(directory, source.choice((1, 2)))
            wrong = [name for name in expected if found.get(name) != expected[name]] + sorted(
                set(found) - set(expected)
            )
            left = [path.relative_to(directory) for rest in LEFT_OVER for path in directory.rglob(rest)]
            different += [f"sweep {sweeps}: {name}" for name in wrong]
            different += [f"sweep {sweeps}: left over {path}" for path in left]
            if report:
                print(f"{done} kills, {sweeps} sweeps, {len(different)} differences {different[-1:]}", flush=True)
            shutil.rmtree(directory.parent)
    return Count(done, sweeps, different)


def _new(parent: Path) -> Path:
    parent.mkdir(parents=True)
    return parent / "out"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers in /proc")
def test_kills_at_random_moments_lose_nothing_and_change_no_bit():
    count = kill_again_and_again(50, seed=1)
    assert count.kills >= 50
    assert count.different == []


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    count = kill_again_and_again(options.kills, options.seed, report=True)
    print(count)
    sys.exit(bool(count.different))

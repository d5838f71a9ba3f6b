"""How much memory is free, and what is refused before it is asked for."""

import numpy as np
import pytest

from refrope import TransformerConfig
from refrope.nn import KVCache, memory

SIZES = TransformerConfig(heads=6, kv_heads=2, head_dim=10, layers=3)
A_TOKEN = 2 * 3 * 5 * 2 * 10 * 8  # keys and values, layers, texts, heads, features, bytes


def test_what_memory_cannot_hold_is_refused_before_anything_is_allocated(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 7 * A_TOKEN + 1)
    assert KVCache(SIZES, batch=5, capacity=7, dtype=np.float64).keys.nbytes * 2 == 7 * A_TOKEN
    KVCache.check_memory(SIZES, 5, 7, np.float64)
    KVCache.check_memory(SIZES, 5, 14, np.float32)
    monkeypatch.setattr(memory.np, "empty", lambda *_: pytest.fail("allocated"))
    for call in (KVCache, KVCache.check_memory):
        with pytest.raises(ValueError, match=r"capacity is 8, 0.00 GiB of keys and values, expected at most 7"):
            call(SIZES, 5, 8, np.float64)
        with pytest.raises(ValueError, match=r"capacity is 10+, \d+.\d\d GiB of keys and values, expected at most 14"):
            call(SIZES, 5, 10**18, np.float32)


def test_nothing_is_refused_where_the_system_does_not_say(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    KVCache.check_memory(SIZES, 5, 10**18)


@pytest.mark.parametrize(("batch", "capacity"), [(0, 3), (3, 0), (3, 2.5)])
def test_sizes_that_are_none_are_refused(batch, capacity):
    with pytest.raises(ValueError, match=r"KVCache: (batch|capacity) is .*, expected an integer >= 1"):
        KVCache.check_memory(SIZES, batch, capacity)


def machine(monkeypatch, files):
    """A machine with these files, and no limit of the address space."""
    monkeypatch.setattr(memory, "_text", lambda file: files.get(str(file)))
    monkeypatch.setattr(memory, "_of_address_space", lambda: None)


MEMINFO = {"/proc/meminfo": "MemTotal:       24000000 kB\nMemFree:  1 kB\nMemAvailable:   1000000 kB\n"}
GROUP = "/sys/fs/cgroup/some/one"


def test_the_machine_says_what_is_free(monkeypatch):
    machine(monkeypatch, MEMINFO)
    assert memory.available_memory() == 1_000_000 * 1024


def test_nothing_is_known_of_another_system(monkeypatch):
    machine(monkeypatch, {})
    assert memory.available_memory() is None


@pytest.mark.parametrize(
    ("own", "parent", "expected"),
    [
        (("max", "5000"), ("max", "9000"), 1_000_000 * 1024),
        (("90000", "50000"), ("max", "99000"), 90_000 - 50_000 + 300),
        (("max", "50000"), ("70000", "60000"), 70_000 - 60_000),
        (("90000", "99000"), ("max", "99000"), 0),
    ],
)
def test_the_tightest_limit_of_a_control_group_counts(monkeypatch, own, parent, expected):
    files = {"/proc/self/cgroup": "1:cpu:/else\n0::/some/one\n"}
    for path, (limit, used) in ((GROUP, own), ("/sys/fs/cgroup/some", parent)):
        files |= {f"{path}/memory.max": f"{limit}\n", f"{path}/memory.current": f"{used}\n"}
    files[f"{GROUP}/memory.stat"] = "anon 1\ninactive_file 300\n"
    machine(monkeypatch, MEMINFO | files)
    assert memory.available_memory() == expected


def test_the_older_kind_of_control_group_counts_too(monkeypatch):
    group = "/sys/fs/cgroup/memory/some"
    files = {
        "/proc/self/cgroup": "4:cpu,memory:/some\nnonsense\n",
        f"{group}/memory.limit_in_bytes": "80000\n",
        f"{group}/memory.usage_in_bytes": "30000\n",
        f"{group}/memory.stat": "total_inactive_file 400\n",
    }
    machine(monkeypatch, MEMINFO | files)
    assert memory.available_memory() == 80_000 - 30_000 + 400


def test_a_limit_of_the_address_space_counts(monkeypatch):
    resource = pytest.importorskip("resource")
    files = MEMINFO | {"/proc/self/status": "Name: x\nVmSize:	  2000 kB\n"}
    monkeypatch.setattr(memory, "_text", lambda file: files.get(str(file)))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (3000 * 1024, 4000 * 1024))
    assert memory.available_memory() == 1000 * 1024
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)
    assert memory.available_memory() == 1_000_000 * 1024


def test_this_machine_has_memory():
    free = memory.available_memory()
    assert free is None or free > 2**20

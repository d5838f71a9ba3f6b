"""refrope.files and refrope.checkpoint: whole or not at all, and damage is seen."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refrope import checkpoint, cli
from refrope.files import check_file_place, read_checked_json, remove_parts, write_bytes, write_checked_json, write_json

ARRAYS = {"weights": np.arange(7, dtype=np.float32), "seconds": np.array([0.1, 0.2])}
ABOUT = {"step": 3, "order": {"state": {"state": 2**127 + 1}}, "history": {"loss": [2.5], "step_seconds": float("nan")}}


def test_a_file_holds_the_old_or_all_of_the_new(tmp_path, monkeypatch):
    path = tmp_path / "a"
    write_bytes(path, b"old")
    monkeypatch.setattr(os, "fsync", _full)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    monkeypatch.undo()
    write_bytes(path, b"new and longer")
    assert path.read_bytes() == b"new and longer"


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_nothing_takes_the_place_of_a_file_before_the_disk_has_it(tmp_path, monkeypatch):
    order = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (order.append("fsync"), real_sync(number))[1])
    monkeypatch.setattr(os, "replace", lambda *paths: (order.append("replace"), real_replace(*paths))[1])
    write_bytes(tmp_path / "a", b"x")
    assert order[:2] == ["fsync", "replace"]
    if os.name == "posix":
        assert order == ["fsync", "replace", "fsync"]  # the directory's names, too


def test_a_place_that_holds_no_file_is_refused_and_nothing_is_made(tmp_path):
    (tmp_path / "file").write_text("old")
    for place, words in (
        (tmp_path, "is a directory, expected a file"),
        (tmp_path / "none" / "a.json", f"cannot be written: {tmp_path / 'none'} is no directory that can be"),
        (tmp_path / "file" / "a.json", f"cannot be written: {tmp_path / 'file'} is no directory that can be"),
    ):
        with pytest.raises(ValueError, match=re.escape(f"bench: --json {place} {words}")):
            check_file_place("bench: --json", place)
    check_file_place("bench: --json", tmp_path / "file")
    check_file_place("bench: --json", tmp_path / "new")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"file": "old"}


@pytest.mark.parametrize(
    "arguments",
    ["bench --json", "verify --json", "check mine:f --encoding rope --json", "inspect --plot", "explore --out"],
)
def test_commands_refuse_a_place_before_their_work(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*arguments.split(), "none/file"]) == 2
    said = capsys.readouterr()
    command, option = arguments.split()[0], arguments.split()[-1]
    assert said.out == ""
    assert said.err == f"refrope: {command}: {option} none/file cannot be written: none is no directory that can be\n"


def test_what_was_interrupted_is_removed_and_nothing_else(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    (tmp_path / "a.json.123.part").write_text("{")
    remove_parts(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_every_flipped_bit_of_a_checked_file_is_seen(tmp_path):
    path = tmp_path / "result.json"
    value = {"rows": [{"accuracy": 0.25, "name": "cot"}], "curves": None}
    write_checked_json(path, value)
    assert read_checked_json(path) == value
    whole = path.read_bytes()
    for place in range(len(whole) - 1):  # the last byte is the end of the last line
        for bit in range(8):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            with pytest.raises(ValueError, match="damaged"):
                read_checked_json(path)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"3", b"{}", b'{"sha256": "0"}', b"\xff"])
def test_what_is_no_checked_file_is_called_damaged(tmp_path, text):
    path = tmp_path / "result.json"
    path.write_bytes(text)
    with pytest.raises(ValueError, match="damaged"):
        read_checked_json(path)


def test_a_file_that_is_not_there_is_none(tmp_path):
    assert read_checked_json(tmp_path / "result.json") is None


# ---- checkpoints ----


def _equal(found: checkpoint.Checkpoint) -> bool:
    same = all(found.arrays[name].tobytes() == array.tobytes() for name, array in ARRAYS.items())
    return same and found.arrays.keys() == ARRAYS.keys() and repr(found.about) == repr(ABOUT)


def test_a_checkpoint_gives_back_what_was_saved(tmp_path):
    checkpoint.save(tmp_path, 3, ARRAYS, ABOUT)
    found, damaged = checkpoint.load(tmp_path)
    assert found is not None
    assert found.step == 3
    assert _equal(found)
    assert damaged == []


def test_a_checkpoint_is_written_in_pieces_with_the_bytes_that_its_name_and_pack_say(tmp_path):
    path = checkpoint.save(tmp_path, 3, ARRAYS, ABOUT)
    data = checkpoint.pack(ARRAYS, ABOUT)
    assert path.read_bytes() == data
    assert path.name == f"checkpoint-000000003-{hashlib.sha256(data).hexdigest()}.npz"


def test_the_last_two_are_kept(tmp_path):
    for step in range(5):
        checkpoint.save(tmp_path, step, ARRAYS, ABOUT)
    assert sorted(int(p.name.split("-")[1]) for p in tmp_path.iterdir()) == [3, 4]
    assert checkpoint.newest_step(tmp_path) == 4
    checkpoint.remove(tmp_path)
    assert checkpoint.load(tmp_path) == (None, [])
    assert checkpoint.newest_step(tmp_path) == 0


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_seen_and_the_one_before_is_used(tmp_path_factory, place, bit):
    directory = tmp_path_factory.mktemp("run")
    checkpoint.save(directory, 1, ARRAYS, ABOUT)
    newest = checkpoint.save(directory, 2, ARRAYS, ABOUT)
    data = bytearray(newest.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    newest.write_bytes(data)
    found, damaged = checkpoint.load(directory)
    assert found is not None
    assert found.step == 1
    assert _equal(found)
    assert len(damaged) == 1
    assert "checksum" in damaged[0]
    assert not newest.exists()  # nobody trips over it again


def test_with_no_whole_checkpoint_there_is_none(tmp_path):
    for step in (1, 2):
        path = checkpoint.save(tmp_path, step, ARRAYS, ABOUT)
        path.write_bytes(path.read_bytes()[:-1])
    found, damaged = checkpoint.load(tmp_path)
    assert found is None
    assert len(damaged) == 2


def test_a_full_disk_leaves_the_checkpoints_that_were_there(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, ARRAYS, ABOUT)
    checkpoint.save(tmp_path, 2, ARRAYS, ABOUT)
    monkeypatch.setattr(os, "fsync", _full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path, 3, ARRAYS, ABOUT)
    monkeypatch.undo()
    found, damaged = checkpoint.load(tmp_path)
    assert (found.step, damaged) == (2, [])
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_no_archive_is_refused():
    for data in (b"", b"PK", checkpoint.pack(ARRAYS, ABOUT)[:-30]):
        with pytest.raises(ValueError, match="no checkpoint"):
            checkpoint.unpack(data)


@pytest.mark.skipif(os.name != "posix", reason="links, pipes and permissions of POSIX")
def test_links_pipes_and_permissions_stay_what_they_are(tmp_path):
    target, link, pipe = (tmp_path / name for name in ("target", "link", "pipe"))
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to("target")
    check_file_place("explore: --out", link)
    write_bytes(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o640
    os.mkfifo(pipe)
    check_file_place("explore: --out", pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_bytes(pipe, b"through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    check_file_place("explore: --out", Path(os.devnull))
    (tmp_path / "lost").symlink_to("none/file")
    with pytest.raises(ValueError, match=r"lost cannot be written: .*none is no directory"):
        check_file_place("explore: --out", tmp_path / "lost")

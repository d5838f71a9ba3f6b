"""Texts: what every Python brings along, and files."""

import hashlib
import os
import sysconfig
from pathlib import Path

import pytest

from refrope.lm import corpus


def test_topics_are_the_values_in_the_order_of_their_keys_with_a_blank_line_between():
    from pydoc_data.topics import topics

    keys = sorted(topics)
    text = corpus.topics()
    assert text.startswith(topics[keys[0]] + "\n\n" + topics[keys[1]])
    assert text.endswith("\n\n" + topics[keys[-1]])
    assert len(text) == sum(map(len, topics.values())) + 2 * (len(topics) - 1)


@pytest.fixture
def small_library(tmp_path, monkeypatch):
    """A standard library of a few files, some of which do not count."""
    files = {
        "b.py": b"second\r\nline\n",
        "a/z.py": "übung\n".encode(),
        "a/latin.py": "# coding: latin-1\n# \xfc\n".encode("latin-1"),
        "test/t.py": b"no",
        "a/tests/t.py": b"no",
        "site-packages/s.py": b"no",
        "_sysconfigdata__linux.py": b"no",
        "a/notes.txt": b"no",
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    return tmp_path


def test_the_library_is_its_own_utf8_sources_in_the_order_of_their_paths(small_library):
    assert corpus.library() == "übung\n\n\nsecond\nline\n"


def test_the_order_of_the_library_does_not_depend_on_the_file_system(small_library, monkeypatch):
    before = corpus.library()
    right = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: reversed(list(right(self, pattern))))
    assert corpus.library() == before


def test_files_are_joined_by_a_blank_line_in_the_order_given(tmp_path):
    (tmp_path / "one").write_text("eins", encoding="utf-8")
    (tmp_path / "two").write_text("zwö", encoding="utf-8")
    assert corpus.read_texts([tmp_path / "two", str(tmp_path / "one")]) == "zwö\n\neins"


@pytest.mark.parametrize(
    ("data", "words"), [(b"abc\xffd", "byte 0xff at offset 3"), (b"\xc3", "byte 0xc3 at offset 0")]
)
def test_a_file_that_is_not_utf8_is_named_with_the_offset(tmp_path, data, words):
    path = tmp_path / "bad.txt"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{path} is not UTF-8: {words}"):
        corpus.read_texts([path])


def test_a_text_says_its_name_digest_and_size(tmp_path):
    (tmp_path / "one.txt").write_text("schön", encoding="utf-8")
    text = corpus.chosen_text(paths=[tmp_path / "one.txt"])
    digest = hashlib.sha256("schön".encode()).hexdigest()
    assert text.about() == {"name": "one.txt", "sha256": digest, "characters": 5}
    assert corpus.chosen_text("topics").text == corpus.topics()


def test_an_unknown_corpus_and_a_missing_file_are_errors(tmp_path):
    with pytest.raises(ValueError, match="unknown corpus 'topic'; did you mean 'topics'"):
        corpus.chosen_text("topic")
    with pytest.raises(OSError, match=os.strerror(2)):
        corpus.read_texts([tmp_path / "nothing"])

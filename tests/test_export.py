"""`refrope export`: PosGen's splits as files that others can read, with the same bytes everywhere."""

import hashlib
import io
import json
import os
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

from refrope import __version__, cli, export, files, posgen
from refrope.export import ExportSettings
from refrope.settings import ExperimentSettings

SMALL = ["--train-sequences", "11", "--test-sequences", "3", "--train-length", "7", "--test-length", "13"]
SPLITS = {"train": (11, 7), "validation": (3, 13), "test": (3, 13)}
# Of the whole of these options' files: changes with the data, and with the form of any file.
PINNED = "748113f77a39178ab855c0119a489664e772bd4d17dc826cd434775bad03e262"


def run(*arguments):
    return cli.main(["export", *map(str, arguments)])


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


@pytest.mark.parametrize("front", [True, False])
def test_every_format_holds_the_splits_that_posgen_trains_with(tmp_path, front, capsys):
    options = [] if front else ["--no-front-token"]
    assert run(tmp_path, "--tasks", "cot,recursive", "--seeds", "2,5", *SMALL, *options) == 0
    assert "cot-seed5" in capsys.readouterr().out
    for task in ("cot", "recursive"):
        for seed in (2, 5):
            folder = tmp_path / f"{task}-seed{seed}"
            made = posgen.make_splits(task, seed=seed, train=11, validation=3, test=3, train_length=7, test_length=13)
            arrays = np.load(folder / "splits.npz", allow_pickle=False)
            assert set(arrays) == {*SPLITS, "generated_from"}
            start = int(arrays["generated_from"])
            assert start == 4 + front
            for name, (count, length) in SPLITS.items():
                expected = getattr(made, name)
                assert expected.shape == (count, length)
                if front:
                    expected = np.column_stack([np.full(count, 17), expected])
                assert arrays[name].dtype == np.int64
                np.testing.assert_array_equal(arrays[name], expected)
                np.testing.assert_array_equal(np.loadtxt(folder / f"{name}.txt", dtype=int, ndmin=2), expected)
                lines = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
                assert lines == [
                    {"task": task, "seed": seed, "split": name, "index": i, "tokens": row, "generated_from": start}
                    for i, row in enumerate(expected.tolist())
                ]


def test_tokens_from_generated_from_on_follow_from_those_before(tmp_path):
    assert run(tmp_path, "--tasks", "cot", *SMALL, "--format", "npz") == 0
    arrays = np.load(tmp_path / "cot-seed2" / "splits.npz")
    tokens, start = arrays["test"], int(arrays["generated_from"])
    for i in range(start, tokens.shape[1]):
        np.testing.assert_array_equal(tokens[:, i], (tokens[:, 1] + tokens[:, i - 3 : i].sum(axis=1)) % 17)
    # No earlier one does, for all sequences.
    assert (tokens[:, start - 1] != (tokens[:, 1] + tokens[:, start - 4 : start - 1].sum(axis=1)) % 17).any()


def test_two_exports_have_the_same_bytes_whatever_the_time_and_the_umask(tmp_path, monkeypatch):
    assert run(tmp_path / "one", *SMALL) == 0
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    monkeypatch.setattr("time.localtime", lambda *_: (2033, 5, 18, 3, 33, 20, 2, 138, 0))
    before = os.umask(0o077)
    try:
        assert run(tmp_path / "other", *SMALL) == 0
    finally:
        os.umask(before)
    assert contents(tmp_path / "one") == contents(tmp_path / "other")


def test_the_bytes_are_these(tmp_path):
    assert run(tmp_path, *SMALL) == 0
    found = manifest(tmp_path)
    assert len(found["files"]) == 3 * 7
    assert hashlib.sha256(files.canonical_json([found["files"], found["datasets"]])).hexdigest() == PINNED


def test_the_manifest_tells_what_everything_is(tmp_path):
    assert run(tmp_path, "--tasks", "semirecursive", "--rule", "latin", "--recipe", "official", *SMALL) == 0
    found = manifest(tmp_path)
    assert (found["format"], found["refrope"]) == ("refrope-posgen-1", __version__)
    assert {name: found["settings"][name] for name in ("tasks", "seeds", "rule", "recipe", "front_token")} == {
        **{"tasks": ["semirecursive"], "seeds": [2], "rule": "latin", "recipe": "official", "front_token": True}
    }
    written = contents(tmp_path)
    del written["manifest.json"]
    assert {path: (len(data), hashlib.sha256(data).hexdigest()) for path, data in written.items()} == {
        path: (file["bytes"], file["sha256"]) for path, file in found["files"].items()
    }
    sizes = {"train": 11, "validation": 3, "test": 3, "train_length": 7, "test_length": 13}
    made = posgen.make_splits("semirecursive", seed=2, recipe="official", rule="latin", **sizes)
    (about,) = found["datasets"]
    assert about["digest"] == posgen.digest(made)
    assert about["sequences"] == {"train": 11, "validation": 3, "test": 3}
    assert about["tokens"] == {"train": 8, "validation": 14, "test": 14}
    assert (about["vocabulary"], about["generated_from"], about["modulus"]) == (18, 5, 17)


def test_the_defaults_are_the_data_of_refrope_posgen():
    settings = ExportSettings()
    assert posgen.digest(settings.dataset("cot", 2)) == posgen.digest(ExperimentSettings().dataset("cot", 2))
    assert settings.tasks == posgen.TASKS


def test_the_header_of_an_array_is_numpys_but_for_its_padding():
    for shape in ((), (3,), (2, 65), (10_000, 257), (0, 5)):
        array = np.arange(np.prod(shape, dtype=int)).reshape(shape)
        data = export._npy(array)
        assert (len(data) - array.nbytes) % 64 == 0
        read = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
        assert read.shape == shape
        np.testing.assert_array_equal(read, array)


def test_the_zip_file_names_neither_time_nor_system():
    archive = zipfile.ZipFile(io.BytesIO(export.npz({"one": np.arange(3), "other": np.arange(2)})))
    assert archive.testzip() is None
    assert [info.filename for info in archive.infolist()] == ["one.npy", "other.npy"]
    for info in archive.infolist():
        assert (info.date_time, info.create_system, info.compress_type) == ((1980, 1, 1, 0, 0, 0), 3, 0)
        assert info.external_attr == 0o644 << 16


def test_formats_can_be_chosen(tmp_path):
    assert run(tmp_path, "--tasks", "cot", *SMALL, "--format", "text") == 0
    names = {"manifest.json", *(f"cot-seed2/{name}.txt" for name in SPLITS)}
    assert set(contents(tmp_path)) == names


class TestInterrupted:
    """An export that something stopped."""

    def stopped(self, folder, monkeypatch, after):
        """All that is in the folder when the disk becomes full after so many files."""
        real, written = export.write_bytes, []

        def write(path, data):
            if len(written) == after:
                raise OSError(28, "No space left on device", str(path))
            written.append(path)
            real(path, data)

        with monkeypatch.context() as patch:
            patch.setattr(export, "write_bytes", write)
            assert run(folder, *SMALL) == 2
        return contents(folder)

    @pytest.mark.parametrize("after", [0, 1, 5, 20, 21])
    def test_it_has_no_manifest_and_the_same_command_completes_it(self, tmp_path, monkeypatch, after, capsys):
        assert run(tmp_path / "whole", *SMALL) == 0
        part = self.stopped(tmp_path / "part", monkeypatch, after)
        assert "No space left on device" in capsys.readouterr().err
        assert len(part) == after + 1
        assert "unfinished.json" in part
        assert "manifest.json" not in part
        assert run(tmp_path / "part", *SMALL) == 0
        assert contents(tmp_path / "part") == contents(tmp_path / "whole")

    def test_other_settings_do_not_mix_with_it(self, tmp_path, monkeypatch, capsys):
        part = self.stopped(tmp_path / "part", monkeypatch, 2)
        assert run(tmp_path / "part", *SMALL, "--rule", "latin", "--seeds", "3") == 2
        said = capsys.readouterr().err
        assert "holds an unfinished export with other seeds, rule, expected a new directory" in said
        assert contents(tmp_path / "part") == part

    def test_a_killed_one_is_completed(self, tmp_path):
        many = [*SMALL, "--seeds", ",".join(map(str, range(2000))), "--tasks", "cot", "--format", "text"]
        process = subprocess.Popen([sys.executable, "-m", "refrope", "export", str(tmp_path / "part"), *many])
        while process.poll() is None and not (tmp_path / "part" / "cot-seed3" / "test.txt").exists():
            time.sleep(0.01)
        process.kill()
        process.wait()
        part = contents(tmp_path / "part")
        assert "manifest.json" not in part
        assert run(tmp_path / "part", *SMALL, "--tasks", "cot") == 2  # not what is being written there
        assert contents(tmp_path / "part") == part


def test_a_finished_export_is_left_as_it_is_and_damaged_files_are_mended(tmp_path):
    assert run(tmp_path, *SMALL) == 0
    before = contents(tmp_path)
    times = {path: (tmp_path / path).stat().st_mtime_ns for path in before}
    damaged, lost = tmp_path / "cot-seed2" / "train.txt", tmp_path / "cot-seed2" / "test.jsonl"
    damaged.write_bytes(b"1 2 3\n")
    lost.unlink()
    assert run(tmp_path, *SMALL) == 0
    assert contents(tmp_path) == before
    same = {path for path in before if (tmp_path / path).stat().st_mtime_ns == times[path]}
    assert set(before) - same == {"cot-seed2/train.txt", "cot-seed2/test.jsonl"}


def test_what_is_not_this_export_is_not_written_to(tmp_path, capsys):
    other, finished, file = (tmp_path / name for name in ("other", "finished", "file"))
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    assert run(finished, *SMALL) == 0
    for number, text in enumerate(("{", "[]", '{"settings": 3}', '{"runs": []}')):
        (tmp_path / f"strange{number}").mkdir()
        (tmp_path / f"strange{number}" / "manifest.json").write_text(text)
    file.write_text("mine")
    before = contents(tmp_path)
    capsys.readouterr()
    for folder, message in (
        (other, "holds something else, expected a new directory"),
        (finished, "holds another export with other train_length, expected a new directory"),
        *((tmp_path / f"strange{n}", "manifest.json is not refrope's, expected a new directory") for n in range(4)),
        (file, "cannot be written: File exists"),
    ):
        assert run(folder, *SMALL, "--train-length", "8") == 2
        said = capsys.readouterr()
        assert message in said.err
        assert said.err.count("\n") == 1
        assert said.out == ""
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "cott"], "export: unknown task 'cott'; did you mean 'cot'?"),
        (["--recipe", "oficial"], "export: unknown recipe 'oficial'; did you mean 'official'?"),
        (["--rule", "latn"], "export: unknown rule 'latn'; did you mean 'latin'?"),
        (["--format", "nzp"], "export: unknown format 'nzp'; did you mean 'npz'?"),
        (["--format", ","], "export: formats are [], expected at least one, each once"),
        (["--seeds", "1,1"], "export: seeds are [1, 1], expected at least one, each once"),
        (["--seeds", "one"], "export: --seeds is 'one', expected whole numbers such as 1,2,3"),
        (["--seeds", "-1"], "export: seed is -1, expected an integer >= 0"),
        (["--train-length", "4"], "export: train_length is 4, expected an integer >= 5"),
        (["--test-sequences", "0"], "export: test_sequences is 0, expected an integer >= 1"),
        (["--train-sequences", "90000"], "expected at most 17**4 = 83521, the number of different prefixes"),
    ],
)
def test_bad_usage_is_one_line_and_nothing_is_written(arguments, message, tmp_path, capsys):
    assert run(tmp_path / "out", *arguments) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()

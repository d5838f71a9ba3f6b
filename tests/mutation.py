"""Change the code in one place, and see whether the tests notice: mutation testing with cosmic-ray's mutants.

    pip install -e ".[test]" cosmic-ray==8.7.0
    python tests/mutation.py --out results.json                # every mutant of every module: hours
    python tests/mutation.py --out results.json --sample 100   # as many of each module, drawn by --seed
    python tests/mutation.py --out results.json --again        # once more those that survived, after a new test
    python tests/mutation.py --out results.json --report       # the tables of tests/mutation.md

cosmic-ray says what can be changed and how. Its own runner writes each mutant over the source and starts Python anew;
here a process that has NumPy, pytest and Hypothesis loaded forks, and the fork imports the mutated text instead of
the file. That takes a third of the time, and nothing is left on the disk by a run that is cut off.
"""

from __future__ import annotations

import argparse
import ast
import collections
import difflib
import importlib.machinery
import json
import os
import random
import re
import resource
import signal
import sys
import time
from pathlib import Path

# Before NumPy is loaded: no threads to fork, and the same few examples each time.
os.environ.update(CI="true", OPENBLAS_NUM_THREADS="1", REFROPE_NUM_THREADS="1")
os.environ.setdefault("REFROPE_TEST_EXAMPLES", "10")

import jsonschema
import matplotlib.pyplot
import mpmath
import numpy
import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from hypothesis import Phase, settings, strategies

WARM = (strategies, jsonschema, matplotlib.pyplot, mpmath, numpy, pytest)  # what every fork finds loaded
_MEMORY = 8 * 2**30
ROOT = Path(__file__).resolve().parent.parent

# Each module, and the test files that are meant to pin it, the likeliest to notice first.
ENCODINGS = ["encodings", "variants", "tables"]
FIELDS = ["huggingface", "vectors"]
TESTS = {
    "encodings/base.py": ENCODINGS,
    "encodings/rope.py": ENCODINGS,
    "encodings/interpolation.py": ENCODINGS,
    "encodings/ramps.py": ENCODINGS,
    "encodings/yarn.py": ENCODINGS,
    "encodings/llama3.py": ENCODINGS,
    "encodings/longrope.py": ENCODINGS,
    "encodings/xpos.py": ENCODINGS,
    "encodings/fope.py": ENCODINGS,
    "encodings/resonance.py": ENCODINGS,
    "encodings/huggingface.py": FIELDS,
    "encodings/huggingface_fields.py": FIELDS,
    "encodings/huggingface_types.py": FIELDS,
    "encodings/position_map.py": ["remap", "mapped"],
    "encodings/remap.py": ["remap", "logit_vectors"],
    "encodings/axes.py": ["axes", "logit_vectors"],
    "encodings/names.py": ["inspection", "compare"],
    "by_distance.py": ["inspect_methods"],
    "inspect_methods.py": ["inspect_methods"],
    "tables.py": ["tables", "rotary"],
    "rotary.py": ["rotary"],
    "posgen.py": ["posgen"],
    "randomness.py": ["randomness", "posgen"],
    "arrays.py": ["arrays", "hostile_input"],
    "nn/attention.py": ["transformer", "attention"],
    "nn/attention_checks.py": ["arrays", "attention", "hostile_input"],
    "nn/mapped.py": ["mapped"],
    "nn/biases.py": ["biases", "logit_vectors"],
    "nn/fire.py": ["fire", "logit_vectors"],
    "nn/dape.py": ["dape", "logit_vectors"],
    "nn/absolute.py": ["absolute"],
    "nn/attending.py": ["methods"],
    "methods.py": ["methods", "inspect_methods"],
    "train_positions.py": ["train_positions"],
    "nn/layers.py": ["layers", "loss", "swiglu"],
    "nn/layer_checks.py": ["layers", "loss", "swiglu", "hostile_input"],
    "nn/dropout.py": ["layers", "attention"],
    "nn/optim.py": ["optim", "layers"],
    "nn/transformer.py": ["transformer", "evaluate", "train"],
    "nn/gradcheck.py": ["layers", "loss", "swiglu"],
}

# Of all the operators that cosmic-ray puts in the place of each, two. For comparisons: the other side, and the edge.
SWAPS = {
    "Add": ("Sub", "Mul"), "Sub": ("Add", "Mul"), "Mul": ("Div", "Add"), "Div": ("Mul", "FloorDiv"),
    "FloorDiv": ("Div", "Mul"), "Mod": ("FloorDiv", "Mul"), "Pow": ("Mul", "Div"), "RShift": ("LShift", "FloorDiv"),
    "LShift": ("RShift", "Mul"), "BitAnd": ("BitOr", "BitXor"), "BitOr": ("BitAnd", "BitXor"),
    "BitXor": ("BitAnd", "BitOr"),
    "Lt": ("GtE", "LtE"), "LtE": ("Gt", "Lt"), "Gt": ("LtE", "GtE"), "GtE": ("Lt", "Gt"), "Eq": ("NotEq", "LtE"),
    "NotEq": ("Eq", "Lt"), "Is": ("IsNot",), "IsNot": ("Is",),
}  # fmt: skip
# `==` is not turned into `is`, the same for small numbers and interned names; and a sign is left out, not exchanged.
LEFT_OUT = re.compile(r"UnaryOperator_(?!Delete)")


def operators() -> list[str]:
    """The names of the operators in use."""
    chosen = []
    for name in operator_names():
        if get_operator(name).arguments():
            continue  # cosmic-ray too uses these only where it is told which variables to replace
        binary = re.search(r"Replace(?:Binary|Comparison)Operator_(\w+)_(\w+)$", name)
        if binary[2] in SWAPS.get(binary[1], ()) if binary else not LEFT_OUT.search(name):
            chosen.append(name)
    return chosen


def annotations(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where annotations begin and end, as (line, column): nothing in them is evaluated."""
    places = []
    for node in ast.walk(ast.parse(source)):
        for each in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(each, ast.expr):
                places.append(((each.lineno, each.col_offset), (each.end_lineno, each.end_col_offset)))
    return places


def mutants_of(module: str) -> list[dict]:
    """All mutants of a module but those in annotations."""
    source = (ROOT / "refrope" / module).read_text()
    tree, ignored = get_ast(source), annotations(source)
    found = []
    for name in operators():
        operator = get_operator(name)()
        places = [place for node in ast_nodes(tree) for place in operator.mutation_positions(node)]
        for occurrence, (start, _) in enumerate(places):
            if not any(first <= start < last for first, last in ignored):
                found.append({"module": module, "operator": name, "occurrence": occurrence, "line": start[0]})
    return found


def mutate(mutant: dict) -> tuple[Path, str, str]:
    """The file, its mutated text, and the change as one line."""
    path = ROOT / "refrope" / mutant["module"]
    source = path.read_text()
    changed = mutate_code(source, get_operator(mutant["operator"])(), mutant["occurrence"])
    lines = difflib.unified_diff(source.splitlines(), changed.splitlines(), n=0, lineterm="")
    kept = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
    before, after = (" ".join(line[1:].strip() for line in kept if line[0] == sign) for sign in "-+")
    return path, changed, f"{before}  ->  {after}"


class QuickFirst:
    """A pytest plugin: tests of one example before those of many, since the first failure ends the run."""

    @staticmethod
    def pytest_collection_modifyitems(items: list) -> None:
        """Sort what was collected."""
        items.sort(key=lambda item: hasattr(getattr(item, "obj", None), "hypothesis"))


def test_in_a_fork(module: str, path: Path | None, text: str) -> int:
    """The process number of a fork that runs the module's tests on `text` in place of the file at `path`."""
    pid = os.fork()
    if pid:
        return pid
    status = 9
    try:
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(silence, stream)
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))  # a mutant may ask for any amount
        os.chdir(ROOT)
        of_the_file = importlib.machinery.SourceFileLoader.get_code

        def get_code(loader, name):
            if path is not None and Path(loader.path) == path:
                return compile(text, str(path), "exec", dont_inherit=True)
            return of_the_file(loader, name)

        importlib.machinery.SourceFileLoader.get_code = get_code
        register = settings.register_profile
        fewer = {"phases": [Phase.explicit, Phase.generate], "report_multiple_bugs": False}  # one failure will do
        quick = staticmethod(lambda name, **options: register(name, **{**options, **fewer}))
        type.__setattr__(settings, "register_profile", quick)  # its own refuses
        files = [f"tests/test_{name}.py" for name in (*TESTS[module], "public_api")]  # the latter has all signatures
        status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--assert=plain", *files], [QuickFirst]))
    finally:
        os._exit(status)


def run(mutants: list[dict], workers: int, save) -> None:
    """Test every mutant, `workers` at a time, and write its outcome into it."""
    # First the tests of each module without a mutant, which must pass; where they survive they are counted nowhere.
    limits = dict.fromkeys((tuple(TESTS[each["module"]]) for each in mutants), 600.0)
    first = {tuple(TESTS[each["module"]]): {"module": each["module"], "line": 0} for each in mutants}
    waiting, running = [*reversed(mutants), *first.values()], {}
    while waiting or running:
        while waiting and len(running) < workers:
            mutant = waiting.pop()
            path, text, mutant["change"] = mutate(mutant) if mutant["line"] else (None, "", "no change")
            try:
                compile(text, str(path), "exec", dont_inherit=True)
            except SyntaxError:
                mutant["outcome"] = "no Python"
                continue
            running[test_in_a_fork(mutant["module"], path, text)] = (mutant, time.monotonic())
        time.sleep(0.02)
        for pid, (mutant, began) in list(running.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                exit_code = os.waitstatus_to_exitcode(status)
                mutant["outcome"] = "survived" if exit_code == 0 else "killed"
            elif time.monotonic() - began > limits[tuple(TESTS[mutant["module"]])]:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                mutant["outcome"] = "timeout"
            else:
                continue
            mutant["seconds"] = round(time.monotonic() - began, 1)
            del running[pid]
            if not mutant["line"]:
                if mutant["outcome"] != "survived":
                    raise SystemExit(f"{mutant['module']}: its tests fail without any mutant")
                limits[tuple(TESTS[mutant["module"]])] = 60 + 3 * mutant["seconds"]
            print(mutant["outcome"], f"{mutant['module']}:{mutant['line']}", mutant["change"], flush=True)
            save()


def report(mutants: list[dict]) -> str:
    """A table with a line a module, and every survivor."""
    lines = ["| module | mutants | tested | killed | of them by time | survived |", "|---|---|---|---|---|---|"]
    total: collections.Counter = collections.Counter()
    for module in TESTS:
        counts = collections.Counter(each.get("outcome", "not tested") for each in mutants if each["module"] == module)
        killed = counts["killed"] + counts["timeout"]
        all_of_it = sum(counts.values()) - counts["no Python"]
        numbers = (all_of_it, killed + counts["survived"], killed, counts["timeout"], counts["survived"])
        total.update(dict(enumerate(numbers)))
        lines.append(f"| {module} | {' | '.join(map(str, numbers))} |")
    lines.append(f"| all | {' | '.join(str(total[i]) for i in range(5))} |")
    lines += ["", *(f"- {e['module']}:{e['line']}  `{e['change']}`" for e in mutants if e.get("outcome") == "survived")]
    return "\n".join(lines)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="results, JSON; what is in it is not tested again")
    parser.add_argument("--module", action="append", choices=TESTS, help="this one only; may be given again")
    parser.add_argument("--sample", type=int, help="so many mutants of each module")
    parser.add_argument("--seed", type=int, default=1, help="of the sample (default 1)")
    parser.add_argument("--workers", type=int, default=2, help="tests at the same time (default 2)")
    parser.add_argument("--again", action="store_true", help="test the survivors again")
    parser.add_argument("--report", action="store_true", help="print the tables and end")
    options = parser.parse_args()

    def save() -> None:
        part = options.out.with_suffix(".part")
        part.write_text(json.dumps(mutants, indent=0))
        part.replace(options.out)

    if options.out.exists():
        mutants = json.loads(options.out.read_text())
    else:
        mutants = [each for module in TESTS for each in mutants_of(module)]
        save()
    if options.report:
        print(report(mutants))
        return
    wanted = []
    for module in options.module or TESTS:
        those = [each for each in mutants if each["module"] == module]
        if options.again:
            wanted += [each for each in those if each.get("outcome") == "survived"]
            continue
        random.Random(f"{options.seed} {module}").shuffle(those)  # a larger sample holds the smaller one
        wanted += [each for each in those[: options.sample] if "outcome" not in each]
    random.Random(options.seed).shuffle(wanted)
    run(wanted, options.workers, save)
    print(report(mutants))


if __name__ == "__main__":
    sys.exit(main())

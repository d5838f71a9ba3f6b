"""Rows and directories of results as refrope posgen writes them, of made-up numbers, for the tests of reports."""

import json

from refrope.randomness import bit_source, normal_numbers

SETTINGS = {
    "preset": "tiny", "epochs": None, "learning_rate": None, "yarn": "swap", "maps": "swap", "positions": "consecutive",
    "recipe": "disjoint", "rule": "sum", "front_token": True, "train_sequences": 307, "test_sequences": 53,
    "train_length": 64, "backend": "numpy",
}  # fmt: skip
MADE_WITH = {
    "versions": {"refrope": "0.1.0", "python": "3.11.7", "numpy": "2.4.6", "blas": "openblas 0.3"},
    "machine": {"system": "Linux", "processor": "x86_64", "cpu": "A CPU", "kernels": {"available": False}},
}
LEVELS = {"rope": 0.4, "resonance-rope": 0.5, "yarn": 0.7, "resonance-yarn": 0.75}


def row(task="cot", encoding="rope", seed=1, length=256, ood=None, *, positions=False, **more):
    """One finished row; its accuracies follow from its names where none is given."""
    source = bit_source(seed, f"{task} {encoding} {length}")
    noise = normal_numbers(source, 1)
    trained = encoding.replace("yarn", "rope")
    losses = normal_numbers(bit_source(seed, f"{task} {trained}"), 6)
    ood = min(max(LEVELS.get(encoding, 0.3) + 0.05 * noise[0], 0.0), 1.0) if ood is None else ood
    found = {
        **{"task": task, "encoding": encoding, "seed": seed, "test_length": length, "preset": "tiny"},
        **{"trained_with": trained, "tested_with": f"{encoding}(64)", "table_bytes": 65536},
        **{"id_accuracy": 0.97, "ood_accuracy": float(ood), "seconds": 67.25, "step_seconds": 0.1},
        **{"learning_rate": 0.0012, "epochs": 6},
        "curves": {
            name: [float(3 / (1 + e) + 0.1 * abs(losses[e])) for e in range(6)]
            for name in ("loss", "id_accuracy", "ood_accuracy")
        },
    }
    if positions:
        within, beyond = [0.97] * 60, [float(ood)] * (length - 64)
        found["accuracy_by_position"] = [None] * 4 + within + beyond
    return found | more


def grid(tasks=("cot",), encodings=tuple(LEVELS), seeds=(1, 2, 3), lengths=(256,), **more):
    """Rows of a whole experiment."""
    return [row(t, e, s, n, **more) for t in tasks for s in seeds for e in encodings for n in lengths]


def write_results(directory, rows, *, settings=None, **more):
    """A directory with a results.json that asks for just these rows, or for what `settings` says."""
    directory.mkdir(parents=True, exist_ok=True)
    names = {"tasks": "task", "encodings": "encoding", "seeds": "seed", "test_lengths": "test_length"}
    asked = {plural: list(dict.fromkeys(row[name] for row in rows)) for plural, name in names.items()}
    results = {
        **{"command": "refrope posgen --seeds 1,2,3", "date": "2026-11-24T18:41:24+00:00", "complete": True},
        **{"settings": SETTINGS | asked | (settings or {}), **MADE_WITH, "runs": rows, **more},
    }
    (directory / "results.json").write_text(json.dumps(results))
    return directory

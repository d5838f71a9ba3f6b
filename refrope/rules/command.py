"""``refrope rules``: which rule trained models use, and what PosGen's tasks give away."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from refrope import posgen
from refrope.environment import environment
from refrope.errors import check_integer, comma_list
from refrope.report import prepare_directory, write_json
from refrope.rules import tables
from refrope.rules.examining import examine, examine_tasks
from refrope.rules.subject import Subject
from refrope.sweep import load_models

_EPILOG = """\
Rule: the full rule, from j + k = 4 tokens. Shortcut: solve the rule at x_l-1 for the sum of near tokens and slide it
on; for the sum that takes two tokens, 2 x_l-1 - x_l-lag, at most steps, for a Latin square three. Slips: one token in
16 breaks the rule, so that the shortcut misses at the step after it. Shifted: every step adds the same number to the
near tokens, so that the rule misses everywhere and the shortcut nowhere. An answer that knows nothing agrees one time
in 17 (5.9 %). Without DIR, what follows from the tasks alone.

examples:
  refrope sweep --tasks all --recipe held-out,held-out-pairs --encodings rope --out swept
  refrope rules swept --out rules-results"""


def add_command(commands: Any) -> None:
    """Add ``rules`` to the command line."""
    parser = commands.add_parser(
        "rules",
        help="which rule trained models use: sequences that break one of two, attention, unseen contexts",
        description="PosGen's sum can be had from two tokens instead of four. Find out which rule the models of a\n"
        "sweep use, what they add up, what they know of contexts that training never had, where their heads look.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("directory", nargs="?", type=Path, metavar="DIR", help="of refrope sweep, finished or not")
    add("--encodings", metavar="A,B", help="those to test with (default: all that the sweep tested its models with)")
    add("--sequences", type=int, metavar="N", help="test sequences that are used (default: all)")
    add("--seed", type=int, default=1, metavar="N", help="of slips, shifts and changed tokens (default 1)")
    add("--threads", type=int, metavar="N", help="of the kernels and of BLAS (default: all cores)")
    add("--out", type=Path, default=Path("rules-results"), metavar="OUT", help="default rules-results")
    parser.set_defaults(run=run_rules)


class Examined(NamedTuple):
    """A model that can be examined, and what it is called."""

    about: dict[str, Any]
    subject: Subject


def run_rules(options: argparse.Namespace) -> int:
    """``refrope rules``."""
    if options.sequences is not None:
        check_integer("rules", "sequences", options.sequences, 2)
    check_integer("rules", "seed", options.seed, 0)
    prepare_directory(options.out)
    found: dict[str, Any] = {"command": shlex.join(["refrope", *sys.argv[1:]]), **environment(), "models": []}
    encodings = None if options.encodings is None else comma_list(options.encodings)
    for number, (about, subject) in enumerate(_subjects(options.directory, encodings), start=1):
        model = about | examine(subject, options.seed, options.sequences)
        _print_model(model, subject)
        found["models"].append(model)
        _figure(model, subject, options.out / f"attention-{number}.png")
    if found["models"]:
        print(f"\nAll models, within the training length but for OOD\n{tables.summary_table(found['models'])}\n")
    elif options.directory is not None:
        raise ValueError(f"rules: no trained model in {options.directory} fits, expected a finished run of a sweep")
    found["tasks"] = examine_tasks(options.seed)
    _print_tasks(found["tasks"])
    write_json(options.out / "results.json", found)
    print(f"\nWritten: {options.out / 'results.json'}")
    return 0


def _subjects(directory: Path | None, encodings: list[str] | None) -> Iterator[Examined]:
    """Every model of a sweep with every encoding that it is tested with."""
    for run in () if directory is None else load_models(directory):
        settings = run.settings
        names = [name for name in settings.encodings if settings.trained_name(name) == run.trained]
        for name in names if encodings is None else [name for name in names if name in encodings]:
            about: dict[str, Any] = {"task": run.task, "seed": run.seed, "trained_with": run.trained}
            about |= {"encoding": name, "run": run.name, "settings": settings.flat()}
            about["title"] = f"{run.task}, {settings.rule}, {name}, recipe {settings.recipe}, seed {run.seed}"
            yield Examined(
                about,
                Subject(
                    *(run.model, settings.tested_encoding(name, settings.longest), run.dataset),
                    rule=posgen.make_rule(settings.rule, run.dataset.modulus),
                    front_token=settings.front_token,
                    places=settings.train_settings().positions,
                    seed=run.seed,
                ),
            )


def _print_tasks(found: dict[str, Any]) -> None:
    print(f"What the tasks give away\n\n{tables.two_term_lines(found['two_term_rules'])}")
    print(f"\n{tables.cycles_table(found['cycles'], found['lengths'])}")
    for each in found["random_rules"]:
        shares = [100 * share for share in each["repeating"]]
        about = f"{len(shares)} random {each['rule']} rules, {each['task']}, in a cycle before {found['lengths'][0]}"
        print(f"{about}: {100 * each['mean']:.1f} % on average, {min(shares):.1f} to {max(shares):.1f}")


def _print_model(model: dict[str, Any], subject: Subject) -> None:
    data = subject.dataset
    print(f"\n== {model['title']} (within and beyond {data.train_length} tokens; {model['run']})")
    print(f"\nWhom the answers follow, %\n{tables.following_table(model['following'])}")
    if model["settings"]["rule"] == "sum":
        print("\nWhat the answers add up: coefficients mod 17, and how many answers have them")
        print(tables.coefficients_table(model["responses"], data.modulus))
    else:
        print(f"\nAnswers after a changed token, %\n{tables.changes_table(model['responses'])}")
    print(f"\nRule or memory\n{tables.contexts_table(model['contexts'])}")
    print(f"\nTables of contexts learned by heart, %\n{tables.lookup_table(model['tables'])}")
    print(f"\nAttention, %\n{tables.attention_table(model['attention'])}")


def _figure(model: dict[str, Any], subject: Subject, path: Path) -> None:
    try:
        from refrope.rules.figures import attention_figure

        attention_figure(model, subject.dataset.train_length, path)
        print(f"Figure: {path}")
    except ImportError:
        print("No figure: matplotlib is missing (pip install 'refrope[experiments]').")

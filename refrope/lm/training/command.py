"""``refrope lm train | report | save``: small language models, trained on short windows and tested on long ones."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from refrope import kernels
from refrope.errors import check_name, comma_list
from refrope.lm.finetuning.reporting import report as report_finetuned
from refrope.lm.finetuning.saving import finetuned_model
from refrope.lm.finetuning.settings import WHO as FINETUNE
from refrope.lm.training.reporting import report
from refrope.lm.training.runs import runs_of, with_full_paths
from refrope.lm.training.saving import load_run, save, trained_model
from refrope.lm.training.settings import DEFAULT_ENCODINGS, DEFAULT_LENGTHS, DEFAULT_SEEDS, PRESETS, LMSettings
from refrope.lm.training.sources import save_tokens, sources_of
from refrope.lm.training.tables import groups_of, loss_table
from refrope.lm.training.texts import CORPORA, WHO
from refrope.methods import METHODS
from refrope.nn.backends import BACKENDS
from refrope.report import format_table
from refrope.report.formats import FORMATS
from refrope.settings_options import OWN, numbers_of
from refrope.sweep.conducting import Rows, add_options, conduct
from refrope.sweep.loading import kind_of

DEFAULT_FORMATS = ("markdown", "csv", "json")

_ABOUT = """\
encodings:
  yarn and resonance-yarn are swapped into the models of rope and resonance-rope for tests beyond the training length,
  with the factor that the test needs; window (as many keys as a training window has) and the position maps (rerope,
  leaky-rerope, self-extend, dca, string) are swapped into that of rope. All others are trained with themselves.

texts:
  The topics and sources of the running Python, or files of your own. A text is held out as a whole where SHA-256 of its
  name, as an integer, is a multiple of ten. Tests predict the same tokens at all lengths: the last ones of held-out
  windows, from the last 256, 512, ... tokens."""
_PRESETS = "presets:\n" + "\n".join(f"  {name:7s}{preset.about}" for name, preset in PRESETS.items())


def add_commands(subcommands: Any) -> None:
    """Add ``train``, ``report`` and ``save`` to ``refrope lm``."""
    _add_train(subcommands)
    parser = subcommands.add_parser(
        "report",
        help="tables and figures of what refrope lm train or finetune has found",
        description="Read the results of refrope lm train and write mean and standard deviation over seeds by encoding "
        "and length,\nand the curves of models trained short and tested long; or those of refrope lm finetune, and "
        "write perplexity\nbefore and after by encoding and length, and how far each Resonance form is from its plain "
        "one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="of refrope lm train or finetune, finished or not")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default DIR/report")
    formats = ", ".join((*FORMATS, "json"))
    parser.add_argument(
        "--format",
        default=",".join(DEFAULT_FORMATS),
        metavar="A,B",
        help=f"{formats} (default {','.join(DEFAULT_FORMATS)})",
    )
    parser.set_defaults(run=run_report, command="lm report", usage=parser.format_usage)
    parser = subcommands.add_parser(
        "save",
        help="a trained model as a Hugging Face directory",
        description="Write the model of one run as a directory of Hugging Face (config.json, model.safetensors,\n"
        "tokenizer.json), where a config.json can say how it knows positions: models trained with rope, and those\n"
        "that refrope lm finetune has continued with an encoding that has a name there, as yarn has.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_directory", type=Path, metavar="RUN", help="DIR/runs/NAME of refrope lm train or finetune")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new directory")
    parser.set_defaults(run=run_save, command="lm save", usage=parser.format_usage)


def _add_train(subcommands: Any) -> None:
    parser = subcommands.add_parser(
        "train",
        help="train small models on short windows of text, test them on long ones; resumable",
        description="Train small language models of Llama's architecture on windows of 256 tokens, a seed and an "
        "encoding at a time,\nand test them on held-out windows of up to 8,192. Whatever interrupts it, the same "
        "command goes on where it was and\nends with the same bits. refrope lm report DIR makes tables and figures.",
        epilog=f"{_ABOUT}\n\n{OWN}\n\n{_PRESETS}\n\nexamples:\n"
        "  refrope lm train --out curves\n"
        "  refrope lm train --preset small --tokens bpe:1024 --encodings rope,yarn,rerope,alibi --out curves",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--preset", default="tiny", metavar="NAME", help=f"{', '.join(PRESETS)} (default tiny; see below)")
    encodings, lengths = ",".join(DEFAULT_ENCODINGS), ",".join(map(str, DEFAULT_LENGTHS))
    seeds = ",".join(map(str, DEFAULT_SEEDS))
    add(
        "--encodings",
        default=encodings,
        metavar="A,B",
        help=f"{', '.join(METHODS)}; all; and your own: see below (default {encodings})",
    )
    add("--seeds", default=seeds, metavar="1,2", help=f"of weights and of the places of windows (default {seeds})")
    add("--steps", type=int, metavar="N", help="instead of the preset's")
    add("--heads", type=int, metavar="N", help="of queries, instead of the preset's: more, of fewer features each")
    add("--batch-size", type=int, metavar="N", help="windows a step, instead of the preset's")
    add("--learning-rate", type=float, metavar="X", help="peak of the one-cycle schedule, instead of the preset's")
    add("--tokens", default="bytes", metavar="KIND", help="bytes (default), or bpe:N: N pairs learnt from the texts")
    add("--train-length", type=int, default=256, metavar="N", help="tokens of a training window (default 256)")
    add("--test-lengths", default=lengths, metavar="A,B", help=f"in tokens (default {lengths})")
    add("--windows", type=int, default=32, metavar="N", help="the most held-out windows of a test (default 32)")
    add(
        "--corpus",
        default=",".join(CORPORA),
        metavar="A,B",
        help=f"{', '.join(CORPORA)}: of the running Python (default both)",
    )
    add("--texts", nargs="+", default=(), metavar="PATH", help="UTF-8 files or directories to read instead")
    add("--frozen", default="", metavar="A,B", help="weights that do not train, such as layers.*.feed_forward.*")
    add("--backend", metavar="NAME", help=f"{' or '.join(BACKENDS)} (default c where the kernels are built)")
    add_options(parser)
    parser.set_defaults(run=run_train, command=WHO, usage=parser.format_usage)


def settings_of(options: argparse.Namespace) -> LMSettings:
    """The settings that the options say, checked."""
    names = tuple(METHODS) if options.encodings == "all" else tuple(comma_list(options.encodings))
    return LMSettings(
        preset=options.preset,
        encodings=names,
        seeds=numbers_of(WHO, "--seeds", options.seeds),
        steps=options.steps,
        heads=options.heads,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        tokens=options.tokens,
        train_length=options.train_length,
        test_lengths=numbers_of(WHO, "--test-lengths", options.test_lengths),
        windows=options.windows,
        corpora=tuple(comma_list(options.corpus)),
        texts=tuple(options.texts),
        frozen=tuple(comma_list(options.frozen)),
        backend=options.backend or ("c" if kernels.available() else "numpy"),
    )


def run_train(options: argparse.Namespace) -> int:
    """``refrope lm train``."""
    settings = with_full_paths(settings_of(options))
    if settings.backend == "c":
        kernels.require()
    sources, tokens, texts = sources_of(settings)
    runs = runs_of(settings, sources)
    for run in runs:
        run.check()
    steps, tests = settings.plan().steps, sum(len(run.tests()) for run in runs)
    size = runs[0].config.size()
    plan = (
        f"{texts.about()}; {sources.vocabulary} tokens; models of {size / 1e6:.2f} million weights.\n"
        f"{len(runs)} trainings of {steps} steps of {settings.windows_a_step} x {settings.train_length} tokens, then "
        f"{tests} tests, which take as long as {sum(run.steps for run in runs) - steps * len(runs)} steps."
    )

    def show(rows: Rows) -> None:
        for group in groups_of(rows):
            table = loss_table(group, 0)
            print(f"\n{table.caption}\n{format_table(table.shown, left=table.naming)}")

    return conduct(
        *(WHO, runs, options),
        plan=plan,
        report="refrope lm report",
        begin=lambda directory: save_tokens(directory, tokens),
        show=show,
    )


def run_report(options: argparse.Namespace) -> int:
    """``refrope lm report``."""
    formats = comma_list(options.format)
    for name in formats:
        check_name("lm report", "format", name, (*FORMATS, "json"))
    if not formats:
        raise ValueError(f"lm report: --format is {options.format!r}, expected some of {', '.join(FORMATS)}, json")
    out = options.out if options.out is not None else options.directory / "report"
    finetuned = kind_of(options.directory) == FINETUNE
    document, names = (report_finetuned if finetuned else report)(options.directory, out, formats)
    for table in document.tables:
        print(f"{table.caption}\n{format_table(table.shown, left=table.naming)}\n")
    for remark in document.sections[0].paragraphs:
        print(f"refrope: note: {remark}", file=sys.stderr)
    print(f"Written: {out}: {', '.join(names)}")
    return 0


def run_save(options: argparse.Namespace) -> int:
    """``refrope lm save``."""
    directory: Path = options.run_directory
    finetuned = kind_of(directory.resolve().parent.parent) == FINETUNE
    model = finetuned_model(directory) if finetuned else trained_model(load_run(directory))
    names = save(model, options.out)
    print(f"Written: {options.out}: {', '.join(names)}")
    print(f"Read it: refrope lm perplexity --model {shlex.quote(str(options.out))}")
    return 0

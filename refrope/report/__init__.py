"""From results to tables, figures and files on disk."""

from refrope.files import write_json
from refrope.report.tables import (
    LABELS,
    PAPER_LENGTH,
    PAPER_OOD,
    format_table,
    heading,
    parameters,
    prepare_directory,
    result_table,
)

__all__ = [
    "LABELS",
    "PAPER_LENGTH",
    "PAPER_OOD",
    "format_table",
    "heading",
    "parameters",
    "prepare_directory",
    "result_table",
    "write_json",
]

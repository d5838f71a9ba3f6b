"""A report before it has a format: sections of paragraphs, tables and figures.

Every format is written from this one structure, so that none can say what another does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One column as people see it.

    Attributes
    ----------
    head : str
    show : callable
        From a record to its text, in plain characters: formats escape it.
    number : bool
        Set to the right.
    """

    head: str
    show: Callable[[Record], str]
    number: bool = True


@dataclass(frozen=True)
class Table:
    """Records, and the columns in which people see them.

    Attributes
    ----------
    name : str
        Of its files.
    caption : str
    columns : tuple of Column
        The first ones that are no numbers name the row.
    records : tuple of dict
        All with the same keys: a CSV file has every key and the full precision of its values.
    notes : tuple of str
        Set below the table.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    records: tuple[Record, ...]
    notes: tuple[str, ...] = ()

    @property
    def shown(self) -> list[tuple[str, ...]]:
        """The head and all rows, as text."""
        head = tuple(column.head for column in self.columns)
        return [head, *(tuple(column.show(record) for column in self.columns) for record in self.records)]

    @property
    def naming(self) -> int:
        """How many columns name a row."""
        numbers = [i for i, column in enumerate(self.columns) if column.number]
        return numbers[0] if numbers else len(self.columns)


@dataclass(frozen=True)
class Figure:
    """A picture with its words.

    Attributes
    ----------
    name : str
        Of its file.
    caption : str
        Says what it shows and how to read it.
    alt : str
        Says the same as the picture to who does not see it.
    png : bytes
    """

    name: str
    caption: str
    alt: str
    png: bytes


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class Document:
    """The whole report.

    Attributes
    ----------
    title : str
    sections : tuple of Section
    data : tuple of Table
        For CSV alone.
    """

    title: str
    sections: tuple[Section, ...]
    data: tuple[Table, ...] = ()

    @property
    def tables(self) -> tuple[Table, ...]:
        """Of all sections."""
        return tuple(table for section in self.sections for table in section.tables)

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Of all sections."""
        return tuple(figure for section in self.sections for figure in section.figures)

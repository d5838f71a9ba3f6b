"""A report as Markdown, LaTeX, CSV and HTML: each from the same `refrope.report.structure.Document`.

Every writer gives {file name: bytes}; `write_files` puts them on disk, each whole or not at all.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from refrope.report.structure import Document, Figure, Table

Files = dict[str, bytes]
LONGEST_TABULAR = 40  # rows that a LaTeX page holds; more become a longtable

_MARKDOWN_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$])")
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}",
    "±": r"$\pm$", "√": r"$\surd$", "²": r"\textsuperscript{2}",
    "–": r"\textendash{}", "[": "{[}", "]": "{]}",  # a row that starts with a bracket is no option of the one before
}  # fmt: skip
_MINUS = re.compile(r"(?<![\w.])-(?=[\d.])")
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;"
    "background:#fff}table{border-collapse:collapse;font-size:.9rem}caption{text-align:left;font-weight:600;"
    "padding:.4rem 0}th,td{padding:.2rem .7rem;border-bottom:1px solid #ccc;text-align:right;white-space:nowrap}"
    "thead th{border-bottom:2px solid #1a1a1a}.text{text-align:left}.wide{overflow-x:auto}.notes{font-size:.85rem;"
    "max-width:60rem}figure{margin:1.5rem 0}img{max-width:100%;height:auto}"
)


def markdown(document: Document) -> Files:
    """``report.md``, as GitHub shows it; its figures stand beside it."""
    parts = [f"# {_markdown_text(document.title)}"]
    for section in document.sections:
        parts.append(f"## {_markdown_text(section.title)}")
        parts += [_markdown_text(paragraph) for paragraph in section.paragraphs]
        for table in section.tables:
            parts += [f"**{_markdown_text(table.caption)}**", _markdown_table(table)]
            parts += [_markdown_text(note) for note in table.notes]
        for figure in section.figures:
            parts += [f"![{_markdown_text(figure.alt)}]({figure.name}.png)", _markdown_text(figure.caption)]
    return {"report.md": ("\n\n".join(parts) + "\n").encode()}


def _one_line(text: str) -> str:
    """Text without control characters, its white space single spaces: messages of errors may hold anything."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _markdown_text(text: str) -> str:
    """Text that Markdown takes as it is, on one line: a line's first character may mean a list or a heading."""
    escaped = _markdown_cell(text)
    return re.sub(r"^(\d+)([.)])", r"\1\\\2", re.sub(r"^([-+=])", r"\\\1", escaped))


def _markdown_table(table: Table) -> str:
    lines = ["| " + " | ".join(_markdown_cell(text) for text in row) + " |" for row in table.shown]
    rule = "|" + "|".join("---:" if column.number else "---" for column in table.columns) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _markdown_cell(text: str) -> str:
    return _MARKDOWN_SPECIAL.sub(r"\\\1", _one_line(text)).replace("&", "&amp;")


def latex(document: Document) -> Files:
    r"""``report.tex``, which compiles on its own, and ``NAME.tex`` for each table, to \input in a paper.

    The tables need the packages booktabs and, above 40 rows, longtable.
    """
    parts = [
        "% pdflatex report.tex, twice; the tables and figures stand beside it.",
        r"\documentclass{article}",
        r"\usepackage[utf8]{inputenc}",
        r"\usepackage[T1]{fontenc}",
        r"\usepackage{textcomp}",
        r"\usepackage[margin=2cm]{geometry}",
        r"\usepackage{booktabs,longtable,graphicx}",
        r"\begin{document}",
        rf"\title{{{_latex_text(document.title)}}}\author{{}}\date{{}}\maketitle",
    ]
    for section in document.sections:
        parts.append(rf"\section*{{{_latex_text(section.title)}}}")
        parts += [_latex_text(paragraph) + "\n" for paragraph in section.paragraphs]
        parts += [rf"\input{{{table.name}}}" for table in section.tables]
        parts += [_latex_figure(figure) for figure in section.figures]
    parts.append(r"\end{document}")
    files = {"report.tex": ("\n".join(parts) + "\n").encode()}
    return files | {f"{table.name}.tex": _latex_table(table).encode() for table in document.tables}


def _latex_text(text: str) -> str:
    return _MINUS.sub(r"$-$", "".join(_LATEX.get(each, _latex_letter(each)) for each in _one_line(text)))


def _latex_letter(character: str) -> str:
    """A letter of Latin-1 as it is, another by its number: a document would need to load fonts for it."""
    return character if ord(character) < 256 else rf"\texttt{{U+{ord(character):04X}}}"


def _latex_table(table: Table) -> str:
    columns = "".join("r" if column.number else "l" for column in table.columns)
    head, *rows = (" & ".join(_latex_text(text) for text in row) + r" \\" for row in table.shown)
    notes = " ".join(_latex_text(note) for note in table.notes)
    caption = rf"\caption{{{_latex_text(table.caption)}}}\label{{tab:{table.name}}}"
    packages = "% needs \\usepackage{booktabs,graphicx}"
    if len(rows) <= LONGEST_TABULAR:
        body = "\n".join([r"\toprule", head, r"\midrule", *rows, r"\bottomrule"])
        # Tables of many columns are made as narrow as the page; the others keep the size of the text.
        fit = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
        return (
            f"{packages}\n\\begin{{table}}[htbp]\n\\centering\n{caption}\n{fit}\n\\begin{{tabular}}{{{columns}}}\n{body}\n"
            f"\\end{{tabular}}}}\n\n\\smallskip\\footnotesize {notes}\n\\end{{table}}\n"
        )
    top = "\n".join([r"\toprule", head, r"\midrule"])
    return (
        f"% needs \\usepackage{{booktabs,longtable}}\n{{\\footnotesize\\setlength{{\\tabcolsep}}{{3pt}}\n"
        f"\\begin{{longtable}}{{{columns}}}\n{caption}\\\\\n{top}\n\\endfirsthead\n{top}\n\\endhead\n"
        + "\n".join([*rows, r"\bottomrule"])
        + f"\n\\end{{longtable}}\n{notes}\\par}}\n"
    )


def _latex_figure(figure: Figure) -> str:
    return (
        f"\\begin{{figure}}[htbp]\n\\centering\n\\includegraphics[width=\\linewidth,height=.8\\textheight,"
        f"keepaspectratio]{{{figure.name}.png}}\n\\caption{{{_latex_text(figure.caption)}}}\\label{{fig:{figure.name}}}\n"
        "\\end{figure}"
    )


def csv_files(document: Document) -> Files:
    """``NAME.csv`` for each table and for all rows: every field, floats in full; UTF-8."""
    files = {}
    for table in (*document.tables, *document.data):
        names = list(table.records[0])
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([_csv_value(record[name]) for name in names] for record in table.records)
        files[f"{table.name}.csv"] = text.getvalue().encode()
    return files


def _csv_value(value: Any) -> Any:
    """What reads back as it was: float() of a float's repr is the float, nothing is None."""
    return "" if value is None else repr(value) if isinstance(value, float) else value


def web_page(document: Document) -> Files:
    """``report.html``: one file that needs no other, figures included."""
    title = _html_text(document.title)
    parts = [
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>',
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style>\n</head>',
        f"<body>\n<main>\n<h1>{title}</h1>",
    ]
    for section in document.sections:
        parts.append(f"<section>\n<h2>{_html_text(section.title)}</h2>")
        parts += [f"<p>{_html_text(paragraph)}</p>" for paragraph in section.paragraphs]
        parts += [_html_table(table) for table in section.tables]
        parts += [_html_figure(figure) for figure in section.figures]
        parts.append("</section>")
    parts.append("</main>\n</body>\n</html>\n")
    return {"report.html": "\n".join(parts).encode()}


def _html_text(text: str) -> str:
    return html.escape(_MINUS.sub("\N{MINUS SIGN}", _one_line(text)))


def _html_table(table: Table) -> str:
    head, *rows = table.shown
    kinds = ["" if column.number else ' class="text"' for column in table.columns]
    heads = "".join(f'<th scope="col"{kind}>{_html_text(text)}</th>' for kind, text in zip(kinds, head, strict=True))
    lines = []
    for row in rows:
        cells = [
            f'<th scope="row"{kind}>{_html_text(text)}</th>'
            if i < table.naming
            else f"<td{kind}>{_html_text(text)}</td>"
            for i, (kind, text) in enumerate(zip(kinds, row, strict=True))
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    notes = "".join(f'\n<p class="notes">{_html_text(note)}</p>' for note in table.notes)
    label = html.escape(_one_line(table.caption))
    return (
        # Who has no mouse scrolls a wide table by its focus, which needs a name.
        f'<div class="wide" tabindex="0" role="region" aria-label="{label}">\n<table id="{table.name}">\n'
        f"<caption>{_html_text(table.caption)}</caption>\n<thead>\n<tr>{heads}</tr>\n</thead>\n<tbody>\n"
        + "\n".join(lines)
        + f"\n</tbody>\n</table>\n</div>{notes}"
    )


def _html_figure(figure: Figure) -> str:
    data, alt = base64.b64encode(figure.png).decode("ascii"), _html_text(figure.alt)
    return (
        f'<figure id="{figure.name}">\n<img src="data:image/png;base64,{data}" alt="{alt}">\n'
        f"<figcaption>{_html_text(figure.caption)}</figcaption>\n</figure>"
    )


FORMATS: Mapping[str, Callable[[Document], Files]] = {
    "markdown": markdown,
    "latex": latex,
    "csv": csv_files,
    "html": web_page,
}


def write_files(directory: Path, document: Document, formats: Iterable[str]) -> list[str]:
    """Write a report in some formats, and the figures that Markdown and LaTeX point to.

    All contents are made, written beside their places and flushed before the first old file is replaced: a reader finds
    each file whole, old or new, whenever this is interrupted.

    Returns
    -------
    The names of the files, in order.

    Raises
    ------
    ValueError
        The directory cannot be made or written.
    """
    formats = list(formats)
    files: Files = {}
    for name in formats:
        files |= FORMATS[name](document)
    if {"markdown", "latex"} & set(formats):
        files |= {f"{figure.name}.png": figure.png for figure in document.figures}
    parts = {directory / f"{name}.part": directory / name for name in files}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for part, content in zip(parts, files.values(), strict=True):
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for part, place in parts.items():
            os.replace(part, place)
    except OSError as error:
        raise ValueError(f"report: --out {directory} cannot be written: {error.strerror or error}") from None
    finally:  # an interrupt, too; those that are in their places are no parts any more
        for part in parts:
            with suppress(OSError):
                part.unlink(missing_ok=True)
    return list(files)

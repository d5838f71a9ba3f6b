"""One structure in four formats: each says all of it, and takes every character as it is meant."""

import base64
import csv
import io
import os
import re
from html.parser import HTMLParser

import pytest
from report_rows import grid, row, write_results

from refrope.report import formats
from refrope.report.contents import gather, make_document
from refrope.report.reading import read
from refrope.report.structure import Column, Document, Figure, Section, Table

HOSTILE = "a|b\\c{d}$e&f#g_h%i~j^k<l>m\"n'o`p*q[r]±√²\x00\n-1 λ"
VOID = {"meta", "img", "br"}
PNG = b"\x89PNG fake"


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    """A report of all there is: lengths, a failed row, an encoding of one's own, the paper's table, a baseline."""
    rows = [*grid(seeds=(1, 2, 3, 4, 5), lengths=(256, 512)), row(encoding="my_mod:A&B<|>%", seed=1)]
    rows.append({"task": "cot", "encoding": "yarn", "seed": 6, "test_length": 256, "failed": HOSTILE})
    sources = read([write_results(tmp_path_factory.mktemp("results"), rows)])
    return make_document(sources, gather(sources), ("encoding", "rope"))


def small(text, rows=1, number=False):
    table = Table(
        "tab", text, (Column(text, lambda record: record["text"], number=number), Column("n", lambda _: "-1.5")),
        tuple({"text": text, "n": i} for i in range(rows)), (text,),
    )  # fmt: skip
    return Document(text, (Section(text, (text,), (table,), (Figure("fig", text, text, PNG),)),))


class Balanced(HTMLParser):
    """Collects elements, and fails on tags that do not match."""

    def __init__(self):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def parsed(page):
    parser = Balanced()
    parser.feed(page.decode())
    parser.close()
    assert parser.open == []
    return parser


def test_the_page_is_balanced_and_needs_no_other_file(document):
    page = formats.web_page(document)["report.html"]
    found = parsed(page)
    assert page.startswith(b"<!DOCTYPE html>")
    for tag, attributes in found.elements:
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:"), tag
        assert tag not in ("link", "script")
    assert ("html", {"lang": "en"}) in found.elements
    assert ("meta", {"charset": "utf-8"}) in found.elements
    images = [attributes for tag, attributes in found.elements if tag == "img"]
    assert [base64.b64decode(each["src"].partition("base64,")[2]) for each in images] == [
        figure.png for figure in document.figures
    ]
    identifiers = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers)) == len(document.tables) + len(document.figures)


def test_the_page_tells_who_does_not_see_it_the_same(document):
    found = parsed(formats.web_page(document)["report.html"])
    tags = [tag for tag, _ in found.elements]
    assert tags.count("caption") == tags.count("table") == len(document.tables)
    assert tags.count("figcaption") == tags.count("figure") == len(document.figures)
    assert tags.count("h1") == tags.count("main") == 1
    assert all(len(attributes["alt"]) > 20 for tag, attributes in found.elements if tag == "img")
    scopes = [attributes["scope"] for tag, attributes in found.elements if tag == "th"]
    columns = sum(len(table.columns) for table in document.tables)
    assert scopes.count("col") == columns
    assert scopes.count("row") == sum(table.naming * len(table.records) for table in document.tables) > 0


def test_every_table_is_in_every_format_with_every_number(document):
    page = "".join(parsed(formats.web_page(document)["report.html"]).texts).replace("\N{MINUS SIGN}", "-")
    text = formats.markdown(document)["report.md"].decode().replace("\\", "").replace("&amp;", "&")
    fragments = formats.latex(document)
    for table in document.tables:
        tex = fragments[f"{table.name}.tex"].decode()
        for shown in table.shown:
            assert "| " + " | ".join(shown) + " |" in text
            for cell in shown:
                assert cell in page
                assert formats._latex_text(cell) in tex
    assert {"cells", "table1", "resonance", "agreement", "baseline"} == {table.name for table in document.tables}


def test_html_takes_every_character_as_it_is():
    found = parsed(formats.web_page(small(HOSTILE))["report.html"])
    words = "a|b\\c{d}$e&f#g_h%i~j^k<l>m\"n'o`p*q[r]±√² \N{MINUS SIGN}1 λ"
    assert found.texts.count(words) == 9  # title and heading, section, paragraph, caption, head, row, note, figure
    assert [attributes["alt"] for tag, attributes in found.elements if tag == "img"] == [words]
    assert "\N{MINUS SIGN}1.5" in found.texts


def test_markdown_takes_every_character_as_it_is():
    lines = formats.markdown(small(HOSTILE))["report.md"].decode().splitlines()
    words = r"a\|b\\c\{d\}\$e&amp;f\#g\_h%i\~j^k\<l\>m\"n'o\`p\*q\[r\]±√² -1 λ".replace(r"\"", '"')
    assert lines[0] == f"# {words}"
    assert f"| {words} | -1.5 |" in lines
    assert "|---|---:|" in lines
    table = [line for line in lines if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {3}
    assert f"![{words}](fig.png)" in lines


@pytest.mark.parametrize(
    ("text", "escaped"), [("- a", r"\- a"), ("1. a", r"1\. a"), ("+ a", r"\+ a"), ("# a", r"\# a")]
)
def test_markdown_sees_no_list_or_heading_where_none_is_meant(text, escaped):
    assert f"\n\n{escaped}\n\n" in formats.markdown(small(text))["report.md"].decode()


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a_b", r"a\_b"),
        ("50 %", r"50 \%"),
        ("a&b", r"a\&b"),
        ("#1", r"\#1"),
        ("$x$", r"\$x\$"),
        ("{a}", r"\{a\}"),
        ("a\\b", r"a\textbackslash{}b"),
        ("~^", r"\textasciitilde{}\textasciicircum{}"),
        ("<|>", r"\textless{}\textbar{}\textgreater{}"),
        ("1 ± 2", r"1 $\pm$ 2"),
        ("[-1.5, 2]", r"{[}$-$1.5, 2{]}"),
        ("swap-in -a", "swap-in -a"),
        ("%²", r"\%\textsuperscript{2}"),
        ("λ", r"\texttt{U+03BB}"),
        ("é", "é"),
        ("a\n\x00b", "a b"),
    ],
)
def test_latex_takes_every_character_as_it_is(text, escaped):
    assert formats._latex_text(text) == escaped


def test_latex_has_as_many_columns_in_each_row_as_it_declares(document):
    for name, content in formats.latex(document).items():
        text = content.decode()
        for begin in re.findall(r"\\begin\{(?:tabular|longtable)\}\{([lr]+)\}", text):
            rows = [line for line in text.splitlines() if line.endswith(r" \\")]
            assert rows, name
            assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in rows} == {len(begin)}
        opened = re.findall(r"\\(begin|end)\{(\w+)\}", text)
        stack = []
        for kind, environment in opened:
            if kind == "begin":
                stack.append(environment)
            else:
                assert stack.pop() == environment, name
        assert stack == []
        unescaped = re.sub(r"\\[{}]", "", text)
        assert unescaped.count("{") == unescaped.count("}"), name


def test_the_latex_document_takes_in_every_table_and_figure(document):
    files = formats.latex(document)
    main = files["report.tex"].decode()
    assert re.findall(r"\\input\{(\w+)\}", main) == [table.name for table in document.tables]
    assert set(files) == {"report.tex", *(f"{table.name}.tex" for table in document.tables)}
    assert re.findall(r"\{(\w+)\.png\}", main) == [figure.name for figure in document.figures]


def test_tables_longer_than_a_page_break_over_pages():
    long = formats.latex(small("a", rows=formats.LONGEST_TABULAR + 1))["tab.tex"].decode()
    assert "longtable" in long
    assert long.count(r"\bottomrule") == 1
    assert "longtable" not in formats.latex(small("a", rows=formats.LONGEST_TABULAR))["tab.tex"].decode()


def test_csv_reads_back_as_it_was(document):
    files = formats.csv_files(document)
    assert set(files) == {f"{table.name}.csv" for table in (*document.tables, *document.data)}
    for table in (*document.tables, *document.data):
        back = list(csv.DictReader(io.StringIO(files[f"{table.name}.csv"].decode(), newline="")))
        assert len(back) == len(table.records)
        for read_back, record in zip(back, table.records, strict=True):
            assert list(read_back) == list(record)
            for name, value in record.items():
                if isinstance(value, float):
                    assert float(read_back[name]) == value
                else:
                    assert read_back[name] == ("" if value is None else str(value))


def test_csv_has_every_row_and_every_setting(document):
    (data,) = document.data
    assert data.name == "rows"
    assert len(data.records) == 42
    (failed,) = [record for record in data.records if record["failed"]]
    assert (failed["failed"], failed["ood_accuracy"], failed["seed"]) == (HOSTILE, None, 6)
    assert {"preset", "yarn", "front_token", "epochs", "tested_with", "seconds", "table_bytes"} <= set(failed)


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    names = formats.write_files(tmp_path / "new" / "out", small("first"), formats.FORMATS)
    out = tmp_path / "new" / "out"
    assert sorted(names) == sorted(path.name for path in out.iterdir())
    assert set(names) == {"report.md", "report.tex", "tab.tex", "tab.csv", "report.html", "fig.png"}
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert before["fig.png"] == PNG
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(ValueError, match="cannot be written: No space left on device"):
            formats.write_files(out, small("second"), formats.FORMATS)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    formats.write_files(out, small("third"), ["markdown"])
    assert b"third" in (out / "report.md").read_bytes()
    assert b"first" in (out / "report.html").read_bytes()


def test_pictures_are_written_where_a_format_points_to_them(tmp_path):
    assert formats.write_files(tmp_path / "a", small("a"), ["csv"]) == ["tab.csv"]
    assert formats.write_files(tmp_path / "b", small("a"), ["html"]) == ["report.html"]
    assert "fig.png" in formats.write_files(tmp_path / "c", small("a"), ["latex"])

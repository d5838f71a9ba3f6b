"""Every entry of the errata page says what was read, how much it matters and who checked it; its code says the same."""

import ast
import contextlib
import io
import re
import warnings
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent / "tutorials" / "errata.md").read_text(encoding="utf-8")
FIELDS = ("Read", "Effect", "Status")
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LONGEST_REPRODUCER = 8  # statements without imports


def entries(page):
    """The text of each entry, by its title."""
    prose = page.split("\n## Reported, not checked\n")[0]
    titles_and_texts = re.split(r"^### (.*)\n", prose, flags=re.MULTILINE)[1:]
    texts = (text.split("\n## ")[0] for text in titles_and_texts[1::2])
    return dict(zip(titles_and_texts[::2], texts, strict=True))


def code_blocks(text):
    """(language and options, code) of each fenced block."""
    return [(info.split(), code) for info, code in FENCE.findall(text)]


def fields(text):
    """What stands behind each bold word at the start of a list item, up to the next item or block."""
    found = re.findall(r"^- \*\*(\w+):\*\*((?:.*\n)(?:  .*\n)*)", text, re.MULTILINE)
    return {name: " ".join(value.split()) for name, value in found}


def printed(code):
    """The lines that a block prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "errata.md", "exec"), {})
    return out.getvalue().splitlines()


def reported():
    """The rows of the last table."""
    rows = [line for line in PAGE.split("\n## Reported, not checked\n")[1].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def promised(code):
    """The lines that a block says it prints."""
    return re.findall(r"# expected (.*)", code)


ENTRIES = entries(PAGE)
BLOCKS = [
    pytest.param(info, code, id=f"{title}, block {i + 1}")
    for title, text in ENTRIES.items()
    for i, (info, code) in enumerate(code_blocks(text))
    if info[0] == "python"
]


@pytest.mark.parametrize("title", ENTRIES)
def test_an_entry_has_its_fields_and_a_reproducer(title):
    found = fields(ENTRIES[title])
    assert tuple(found) == FIELDS
    assert all(found.values())
    assert re.match(r"checked\b", found["Status"]), "what is only reported belongs in the table at the end"
    assert re.search(r"\d", found["Read"]) or "the same" in found["Read"] or "no single source" in found["Read"]
    languages = [info[0] for info, _ in code_blocks(ENTRIES[title])]
    assert "python" in languages or "by hand" in found["Status"]


def test_reported_rows_are_complete_and_say_so():
    header, rule, *rows = reported()
    assert header == ["What", *FIELDS]
    assert set(rule) == {"---"}
    assert rows
    for row in rows:
        assert len(row) == len(header), row
        assert all(row), row
        assert row[-1] == "reported", row


def test_no_block_is_outside_an_entry():
    assert len(code_blocks(PAGE)) == sum(len(code_blocks(text)) for text in ENTRIES.values())


@pytest.mark.parametrize(("info", "code"), BLOCKS)
def test_a_reproducer_is_short_and_says_what_it_expects(info, code):
    statements = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.stmt)]
    statements = [node for node in statements if not isinstance(node, ast.Import | ast.ImportFrom)]
    assert len(statements) <= LONGEST_REPRODUCER
    assert len(promised(code)) >= 1


@pytest.mark.parametrize(("info", "code"), BLOCKS)
def test_a_reproducer_prints_what_the_page_says(info, code):
    needs = [option.removeprefix("needs=") for option in info[1:]]
    with warnings.catch_warnings():
        if needs:  # others' warnings are not ours to fail on
            warnings.simplefilter("ignore")
        for module in needs:
            found = pytest.importorskip(module)
            if module == "transformers" and not found.__version__.startswith("5.23."):
                pytest.skip(f"the entry is about transformers 5.23, this is {found.__version__}")
        assert printed(code) == promised(code)


def test_an_entry_without_a_field_or_with_a_wrong_number_is_noticed():
    title, text = next(iter(ENTRIES.items()))
    assert tuple(fields(text.replace("**Effect:**", "Effect:"))) != FIELDS
    _, code = code_blocks(text)[0]
    wrong = code.replace("# expected 9 17", "# expected 9 18")
    assert wrong != code, title
    assert printed(wrong) != promised(wrong)

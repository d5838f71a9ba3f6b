"""Execute the tutorials and make a static site of them, with an API reference.

    tutorials/NN_*.py ──► jupytext ──► notebooks, executed ──► nbconvert ──► DIR/NN_*.html, DIR/NN_*.ipynb
    first cells and figures ──────────────────────────────────────────────► DIR/index.html
    docstrings of refrope ──────────────────────────────────► pdoc ───────► DIR/api/

The site is written whole or not at all. Its pages load nothing from elsewhere.
"""

from __future__ import annotations

import argparse
import os
import pkgutil
import re
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import refrope

try:
    import jupytext
    import nbformat
    import pdoc
    from nbconvert.exporters import HTMLExporter
    from nbconvert.filters import strip_ansi
    from nbconvert.preprocessors import CellExecutionError, ExecutePreprocessor
except ImportError as error:
    print(f"render.py: {error.name} is missing (pip install -e '.[tutorials]' in the clone)", file=sys.stderr)
    raise SystemExit(1) from None

HERE = Path(__file__).resolve().parent
MARK = ".made-by-render"  # only a directory that has this file is replaced
# nbconvert's page without the scripts that it loads from other servers; the tutorials have neither TeX nor widgets.
PAGE = """\
{% extends "lab/index.html.j2" %}
{% block html_head_js %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block body_header %}{{ super() }}
<nav style="padding: 1em 2em">
<a href="index.html" style="color: #0050a0">All tutorials</a> ·
<a href="api/refrope.html" style="color: #0050a0">API reference</a>
</nav>
{% endblock %}
"""


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="render.py", description="Execute the tutorials and make a static site.")
    parser.add_argument("--out", type=Path, default=Path("site"), metavar="DIR", help="where to write (default site)")
    parser.add_argument("--smoke", action="store_true", help="smaller sizes, to see whether all of it runs")
    parser.add_argument("--only", metavar="01,02", help="these tutorials alone")
    options = parser.parse_args(arguments)
    out: Path = options.out.resolve()
    try:
        chosen = tutorials(options.only)
        check_replaceable(out)
    except ValueError as error:
        print(f"render.py: {error}", file=sys.stderr)
        return 1
    if options.smoke:
        os.environ["REFROPE_SMOKE"] = "1"
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{out.name}.", suffix=".part", dir=out.parent) as part:
        site, work = Path(part) / "site", Path(part) / "work"
        site.mkdir()
        shutil.copytree(HERE, work)  # they read results and write figures beside themselves
        failed = []
        for path in chosen:
            print(path.stem, flush=True)
            notebook = jupytext.read(path)
            try:
                execute(notebook, work)
            except Exception as error:  # of any kind: the kernel may die, too
                print(f"{path.name} failed:\n{strip_ansi(str(error))}", file=sys.stderr)
                failed.append(path.name)
                continue
            nbformat.write(notebook, site / f"{path.stem}.ipynb")
            write_page(notebook, path.stem, site)
        if failed:
            print(f"render.py: {', '.join(failed)} failed; nothing was written", file=sys.stderr)
            return 1
        write_api(site / "api")
        write_index(chosen, work / "figures", site)
        (site / MARK).touch()
        replace(out, site, Path(part) / "before")
    print(f"Written: {options.out / 'index.html'}")
    return 0


def tutorials(only: str | None) -> list[Path]:
    """The scripts to execute, in their order; ValueError where `only` names one that is not there."""
    found = {path.name[:2]: path for path in sorted(HERE.glob("[0-9][0-9]_*.py"))}
    numbers = list(found) if only is None else [number.strip() for number in only.split(",")]
    unknown = [number for number in numbers if number not in found]
    if unknown:
        raise ValueError(f"--only names {', '.join(unknown)}, expected some of {', '.join(found)}")
    return [found[number] for number in sorted(set(numbers))]


def execute(notebook: nbformat.NotebookNode, directory: Path) -> None:
    """Run all cells in `directory`; one that ends with SystemExit(0), for want of something, ends it in peace."""
    runner = ExecutePreprocessor(kernel_name="python3", timeout=None, extra_arguments=["--log-level=ERROR"])
    try:
        runner.preprocess(notebook, {"metadata": {"path": str(directory)}})
    except CellExecutionError as error:
        if (error.ename, error.evalue) != ("SystemExit", "0"):
            raise
        last = next(cell for cell in notebook.cells if any("ename" in output for output in cell.get("outputs", [])))
        last.outputs = [output for output in last.outputs if output.get("name") == "stdout"]


def write_page(notebook: nbformat.NotebookNode, name: str, site: Path) -> None:
    """`notebook` as site/name.html."""
    notebook.metadata["title"] = notebook.cells[0].source.partition("\n")[0].lstrip("# ")
    html, _ = HTMLExporter(raw_template=PAGE).from_notebook_node(notebook, {"metadata": {"name": name}})
    (site / f"{name}.html").write_text(html, encoding="utf-8")


def write_index(chosen: list[Path], figures: Path, site: Path) -> None:
    """A page with the title, purpose and figure of every tutorial, and links to the reference of every module."""
    parts = [f"# refrope {refrope.__version__}: tutorials\n\nExecuted, with what they print and draw."]
    for path in chosen:
        first_cell = jupytext.read(path).cells[0].source
        title = first_cell.partition("\n")[0].lstrip("# ")
        purpose = re.search(r"^\*\*You will\*\*.*?(?=\n\n|\Z)", first_cell, re.DOTALL | re.MULTILINE)
        part = f"## [{title}]({path.stem}.html)\n\n{purpose[0] if purpose else ''} ([notebook]({path.stem}.ipynb))"
        figure = figures / f"{path.stem}.png"
        if figure.exists():
            (site / "figures").mkdir(exist_ok=True)
            shutil.copy(figure, site / "figures")
            part += f"\n\n![{title}](figures/{figure.name})"
        parts.append(part)
    links = [f"[{name}](api/{name.replace('.', '/')}.html)" for name in modules()]
    parts.append(f"## API reference\n\n{' · '.join(links)}")
    write_page(nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_markdown_cell, parts))), "index", site)


def modules() -> list[str]:
    """The package and what lies directly in it."""
    return ["refrope"] + [f"refrope.{m.name}" for m in pkgutil.iter_modules(refrope.__path__) if m.name[0] != "_"]


def write_api(directory: Path) -> None:
    """The docstrings of all that is public, by pdoc."""
    pdoc.render.configure(docformat="numpy", show_source=False, footer_text=f"refrope {refrope.__version__}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # annotations whose names are imported for type checkers alone
        # Not the plugin: it imports pytest.
        pdoc.pdoc(*modules(), "!refrope.conformance.pytest_plugin", output_directory=directory)


def check_replaceable(out: Path) -> None:
    """ValueError where `out` holds anything but a site of ours."""
    if out.exists() and not (out.is_dir() and ((out / MARK).exists() or not any(out.iterdir()))):
        raise ValueError(f"--out is {out}, expected a directory that is new, empty, or was made by render.py")


def replace(out: Path, site: Path, before: Path) -> None:
    """Put `site` where `out` is, and `out` to `before`; on an error `out` is as it was."""
    if out.exists():
        out.rename(before)
    try:
        site.rename(out)
    except BaseException:
        if before.exists():
            before.rename(out)
        raise


if __name__ == "__main__":
    sys.exit(main())

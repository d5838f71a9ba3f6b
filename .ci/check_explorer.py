"""Check the explorer's page in headless Chromium: numbers, network, keyboard, accessibility, widths; take screenshots.

Needs `pip install playwright axe-playwright-python` and a Chromium, such as `apt-get install chromium` (or --browser).

    python .ci/check_explorer.py [--browser PATH] [--shots DIR] [--only NAME ...]

Status 0 all is well, 1 a check failed, 2 no browser.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright

from refrope import cli
from refrope.explorer import CATALOGUE
from refrope.vectors import FOLDER as VECTORS

ROOT = Path(__file__).parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
VECTOR_FILES = (*CATALOGUE["variants"], "resonance")
DESKTOP, PHONE = (1280, 900), (360, 780)
WIDTHS = (320, 360, 412, 699, 700, 999, 1000, 1280, 1920)
USUAL = ""
FULL = "#variant=yarn&resonance=on&train-length=512&test-length=2048&positions=bfloat16&pair=11"
LONG = "#variant=llama3&head-dim=512&base=500000&train-length=8192&test-length=131072&factor=8"
TAB_STOPS = 40  # more than the page has

Open = Callable[..., Page]


def check_numbers(open_page: Open) -> Iterator[str]:
    """The page's own functions give the test vectors; tests/explorer/vectors.mjs says how exactly."""
    page = open_page(USUAL)
    functions = re.sub(r"^export ", "", (ROOT / "tests/explorer/vectors.mjs").read_text(), flags=re.MULTILINE)
    functions = functions.partition("\nif (typeof process")[0]
    for name in VECTOR_FILES:
        file = json.loads((VECTORS / f"{name}.json").read_text())
        found = page.evaluate(f"(file) => {{ {functions}; return compareFile(globalThis.refrope, file); }}", file)
        print(
            f"{name}: {found['groups']} groups, {found['skipped']} that the page does not have; {found['equal']} "
            f"numbers equal, {found['entries']} entries of tables within {found['worst']:.2f} of their bounds"
        )
        yield from found["failures"]
        if not found["groups"] or not found["entries"]:
            yield f"{name}: nothing was compared"


def check_network(open_page: Open) -> Iterator[str]:
    """The page asks for nothing but itself, and its policy keeps it from doing so."""
    page = open_page(FULL)
    if page.requested != [page.url.partition("#")[0]]:
        yield f"the page asked for {page.requested}"
    blocked = page.evaluate(
        """() => new Promise((resolve) => {
            document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
            fetch("http://127.0.0.1:9/").catch(() => setTimeout(resolve, 500, "nothing"));
        })"""
    )
    if blocked != "connect-src":
        yield f"a request is held back by {blocked}, expected the page's policy"
    page.said.clear()  # that policy's word on it


def check_words(open_page: Open) -> Iterator[str]:
    """What stands in words is that of the numbers; wrong input is refused in words, and changes nothing."""
    page = open_page(USUAL)
    if "With RoPE, 9 of 32 pairs are pre-critical" not in page.inner_text("#summary"):
        yield f"summary is {page.inner_text('#summary')!r}"
    before = page.inner_text("#python")
    for name, text in (("head_dim", "63"), ("base", "1"), ("test_length", "64"), ("train_length", "")):
        page.fill(f"#{name}", text)
        if page.get_attribute(f"#{name}", "aria-invalid") != "true" or not page.inner_text(f"#{name}-error"):
            yield f"{name} = {text!r} is not refused"
        if page.inner_text("#python") != before:
            yield f"{name} = {text!r} changed the encoding"
    page.fill("#head_dim", "32")
    if any(page.inner_text(f"#{name}-error") for name in ("head_dim", "base", "test_length", "train_length")):
        yield "a complaint stays when all fields show the state again"
    page = open_page("#variant=yarn&train-length=1&test-length=131072")
    page.uncheck("[name=follow]")
    page.wait_for_timeout(500)
    if "factor=1024.0" not in page.inner_text("#python"):
        yield f"a factor beyond the field's is {page.inner_text('#python')!r} when it no longer follows"
    page = open_page("#variant=yarn&base=abc&colour=red")
    complaint = page.inner_text("#complaints")
    if "base is abc" not in complaint or "colour" not in complaint or "YaRN" not in page.inner_text("#python"):
        yield f"a wrong address is answered by {complaint!r}"


def check_address(open_page: Open) -> Iterator[str]:
    """An address holds the whole view: opened anew it shows the same."""
    page = open_page(FULL)
    page.fill("#base", "500000")
    page.uncheck("[name=resonance]")
    page.wait_for_timeout(600)
    again = open_page("#" + page.url.partition("#")[2])
    for place in ("#python", "#summary", "#pair-words", "#pairs"):
        if page.inner_html(place) != again.inner_html(place):
            yield f"{place} differs in a page opened by {page.url.partition('#')[2]}"
    page.click("#examples >> text=Llama 3.1")
    page.wait_for_timeout(600)
    if "rr.Llama3(head_dim=128" not in page.inner_text("#python"):
        yield "an example does not change the view"


def check_keyboard(open_page: Open) -> Iterator[str]:
    """Tab reaches every control, named, visibly and uncovered; arrow keys and space change the view."""
    for size in (DESKTOP, PHONE):
        page = open_page("#variant=yarn", size)
        stops = []
        for _ in range(TAB_STOPS):
            page.keyboard.press("Tab")
            stop = page.evaluate(FOCUSED)
            if stop is None:
                break
            stops.append(stop["name"])
            if not stop["name"] or not stop["outlined"] or not stop["uncovered"]:
                yield f"{size[0]} px: focus is not as it should be: {stop}"
        wanted = page.evaluate(
            "document.querySelectorAll('a, summary, select, input, button, [tabindex=\"0\"]').length"
        )
        closed = 1  # the table's region, in a closed element
        if len(stops) != wanted - closed:
            yield f"{size[0]} px: {len(stops)} tab stops of {wanted - closed}: {stops}"
        print(f"{size[0]} px, tab stops: {', '.join(stops)}")
    page = open_page(USUAL)
    for field, key, code in (
        ("#variant", "End", "rr.Llama3(head_dim=64"),
        ("#variant", "ArrowUp", "rr.YaRN(head_dim=64"),
        ("[name=resonance]", "Space", "rr.Resonance(rr.YaRN("),
        ("[name=train_length_slider]", "ArrowRight", "original_length=76"),
        ("[name=follow]", "Space", "factor=3.3684210526"),
        ("[name=factor_slider]", "ArrowRight", "factor=4.0"),
        ("[name=base_slider]", "ArrowLeft", "base=8200.0"),
        ("[name=head_dim_slider]", "ArrowLeft", "head_dim=54"),
    ):
        page.focus(field)
        page.keyboard.press(key)
        page.wait_for_timeout(100)
        if code not in page.inner_text("#python"):
            yield f"{field} and {key} give {page.inner_text('#python')!r}, expected {code}"


FOCUSED = """() => {
    const node = document.activeElement;
    if (!node || node === document.body) return null;
    const style = getComputedStyle(node);
    const box = node.getBoundingClientRect();
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    const above = document.elementFromPoint(x, y);
    const label = node.getAttribute("aria-label") ?? node.labels?.[0]?.textContent ?? node.textContent;
    return {
        name: label.trim(),
        outlined: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
        uncovered: node.contains(above) || above?.contains(node) && node.closest("label") === above,
    };
}"""


def check_accessibility(open_page: Open) -> Iterator[str]:
    """axe-core finds nothing, in light and dark, on a desktop and a phone, with an error shown and the table open."""
    for scheme in ("light", "dark"):
        for size in (DESKTOP, PHONE):
            page = open_page(FULL, size, scheme)
            page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
            page.fill("#base", "0")
            results = Axe().run(page)
            passed = len(results.response["passes"])
            print(
                f"axe-core {results.response['testEngine']['version']}, {scheme}, {size[0]} px: {passed} rules pass",
                end=", ",
            )
            print(f"{results.violations_count} violations, {len(results.response['incomplete'])} left to people")
            for violation in results.response["violations"]:
                yield f"axe, {scheme}, {size[0]} px: {violation['id']}: {violation['nodes'][0]['html'][:200]}"


def check_widths(open_page: Open) -> Iterator[str]:
    """Nothing has to be scrolled sideways, however narrow, but the table in its own frame."""
    for fragment, widths in ((FULL, WIDTHS), (LONG, WIDTHS[:1])):
        for width in widths:
            page = open_page(fragment, (width, 780))
            page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
            page.wait_for_timeout(100)
            scroll = page.evaluate("document.documentElement.scrollWidth")
            if scroll > width:
                yield f"{width} px: the page is {scroll} px wide"


CHECKS = {
    check.__name__.removeprefix("check_"): check
    for check in (
        *(check_numbers, check_network, check_words, check_address),
        *(check_keyboard, check_accessibility, check_widths),
    )
}


def take_shots(open_page: Open, folder: Path) -> None:
    """Screenshots: the whole page on a desktop, light and dark, and a phone as it is held."""
    folder.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        for name, fragment in (("usual", USUAL), ("bfloat16", FULL), ("long", LONG)):
            open_page(fragment, DESKTOP, scheme).screenshot(
                path=folder / f"desktop-{scheme}-{name}.png", full_page=True
            )
        page = open_page(FULL, PHONE, scheme)
        for name in ("said-heading", "wavelengths-heading", "gap-heading", "circle-heading"):
            page.evaluate(f"document.getElementById('{name}').scrollIntoView({{ behavior: 'instant' }})")
            page.screenshot(path=folder / f"phone-{scheme}-{name.removesuffix('-heading')}.png")


def main() -> int:
    """Run all checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--browser", default=os.environ.get("REFROPE_BROWSER"), help="path of a Chromium")
    parser.add_argument("--shots", type=Path, metavar="DIR", help="write screenshots there")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS), help="these alone")
    options = parser.parse_args()
    found = options.browser or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        parser.error("no Chromium found: name one with --browser or REFROPE_BROWSER")
    failures = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "explorer.html"
        cli.main(["explore", "--out", str(file)])
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        print(f"Chromium {browser.version}")
        pages = []

        def open_page(fragment: str, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> Any:
            page: Any = browser.new_page(
                viewport={"width": size[0], "height": size[1]},
                color_scheme=scheme,
                device_scale_factor=1 if size[0] > 999 else 2,
                reduced_motion="reduce",  # else a page that glides to what Tab reaches is seen on its way
            )
            page.said, page.requested = [], []
            page.on("console", lambda message: page.said.append(message.text))
            page.on("pageerror", lambda error: page.said.append(str(error)))
            page.on("request", lambda request: page.requested.append(request.url))
            page.goto(file.as_uri() + fragment)
            page.wait_for_function("document.getElementById('summary').textContent !== ''")
            pages.append(page)
            return page

        for name in options.only:
            failures += [f"{name}: {failure}" for failure in CHECKS[name](open_page)]
            for page in pages:
                failures += [f"{name}: the browser says {text}" for text in page.said]
                page.close()
            pages.clear()
        if options.shots is not None:
            take_shots(open_page, options.shots)
        browser.close()
    for failure in failures:
        print(f"FAILED {failure}")
    print(f"{len(failures)} failures" if failures else "all checks passed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

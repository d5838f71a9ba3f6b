"""The explorer's page in a real browser, where one is to be had: see .ci/check_explorer.py."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parent.parent / ".ci" / "check_explorer.py"
NEEDED = ("playwright", "axe_playwright_python")
BROWSER = os.environ.get("REFROPE_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium, or name one in REFROPE_BROWSER")
@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, NEEDED)), reason="pip install playwright axe-playwright-python"
)
def test_the_page_passes_all_checks_in_a_browser():
    done = subprocess.run(
        [sys.executable, str(CHECK), "--browser", BROWSER], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all checks passed" in done.stdout
    assert done.stdout.count("0 violations") == 4

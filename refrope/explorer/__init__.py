"""``refrope explore``: one HTML page in which a person moves an encoding's parameters and sees what they do.

page.html, the sheets in style/ and the modules in script/ are what a browser reads; `page` joins them into one file.
"""

from __future__ import annotations

from refrope.explorer.page import CATALOGUE, page_text

__all__ = ["CATALOGUE", "page_text"]

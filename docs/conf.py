"""How the docs site is built: `make docs`.

Nothing is fetched, and a page loads nothing from elsewhere.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

from notifier import __version__  # noqa: E402 - found by the path above

project = "Notifier"
author = "Notifier maintainers"
version = release = __version__
language = "en"

# `reference` writes the pages of docs/reference/ from the code before the others are read.
extensions = ["myst_parser", "reference"]
exclude_patterns = ["_ext"]
myst_enable_extensions = ["html_image"]
myst_heading_anchors = 3
# Examples are of languages that the highlighter knows, or plain.
highlight_language = "text"
nitpicky = True

html_theme = "furo"
html_title = f"Notifier {version}"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_theme_options: dict[str, list[str]] = {"top_of_page_buttons": []}

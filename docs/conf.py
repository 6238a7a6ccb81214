"""How Sphinx makes the pages: offline, strict, nothing fetched when they are made or read."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(Path(__file__).parent / "_ext"), *(str(ROOT / p) for p in (".", "plugins", "formats"))]
os.environ["COLUMNS"] = "100"  # what help texts are wrapped at

from instsearch_cli import __version__  # noqa: E402

project, author, release = "instsearch", "the instsearch authors", __version__
project_copyright = "the instsearch authors, MIT licence"
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click", "sphinx_copybutton", "instsearch_docs"]
exclude_patterns = ["_ext"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"
smartquotes = False  # they would make dashes of options

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
nitpick_ignore_regex = [
    # the types in signatures: other people's, and short names
    ("py:(class|obj|data|exc)", "(?!instsearch).*"),
    ("py:class", r"instsearch_formats\..*"),
]

html_theme = "furo"
html_title = f"instsearch {release}"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["_static"]
html_css_files = ["instsearch.css"]
copybutton_prompt_text = "$ "
copybutton_exclude = ".linenos, .gp, .go"
pygments_style, pygments_dark_style = "default", "monokai"

"""The page of ``instsearch serve``: its markup, style and script put together as one text that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

SCRIPTS = (
    *("dom.js", "api.js", "pictures.js", "state.js", "getting.js", "browse.js"),
    *("view.js", "boxes.js", "pointer.js", "strip.js", "ask.js", "hits.js", "marks.js"),
    *("lightbox.js", "choices.js", "takeaway.js", "boxtask.js", "main.js"),
)
"""The script's files in the order they are put together; only the last of them does something by itself."""
FILES = ("style.css", "page.html", *SCRIPTS)


def page() -> tuple[str, str]:
    """The page as text, and its Content-Security-Policy, which lets its own style and script run and no other.

    ``script-src 'sha256-base64(sha256(script))'``, and the same of the style (Content Security Policy Level 3).
    """
    folder = files(__package__ or __name__)
    style, markup, *scripts = (_lean((folder / name).read_text("utf-8")) for name in FILES)
    style = re.sub(r" ?([{};,]) ?|(:) ", r"\1\2", style)
    script = f'(() => {{\n"use strict";\n{"".join(scripts)}}})();\n'
    text = markup.replace("/*STYLE*/", style).replace("/*SCRIPT*/", script)
    policy = (
        f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; img-src blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, policy


def _lean(text: str) -> str:
    """Without margins and comments, a sixth of the page; no text in it may have ``//`` after a space."""
    lines = (re.sub(r"(^| )//( .*)?$|^/\*\*.*\*/$", "", line.strip()) for line in text.splitlines())
    return "".join(f"{line}\n" for line in lines if line)


def _source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"

"""Pages that are one file: templates, texts that are harmless in them, and the policy that lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from pathlib import Path

TEMPLATES = Path(__file__).parent / "templates"

CELL = 300
"""Characters of a text that are shown: a field may hold a book."""


def parts(name: str) -> tuple[str, str, str]:
    """The page, the style sheet and the script of the template of that name."""
    page, style, script = (
        (TEMPLATES / name / f"{name}.{ending}").read_text(encoding="utf-8") for ending in ("html", "css", "js")
    )
    return page, style, script


def policy(style: str, script: str) -> str:
    """The content security policy, as an attribute's value, of a page that has this style and script and no other, and
    pictures within itself.
    """
    return escape(
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'",
        quote=False,
    )


def shown(text: str) -> str:
    """A text, harmless in HTML and cut where it is very long."""
    return escape(text if len(text) <= CELL else f"{text[:CELL]}…")


def _hash(text: str) -> str:
    """What a content security policy calls a style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"

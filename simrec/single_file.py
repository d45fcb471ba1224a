"""Single-file pages: their templates, escaped texts, and the policy that lets them load nothing else."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from pathlib import Path

TEMPLATES = Path(__file__).parent / "templates"

CELL = 300
"""How many characters of a text are shown: a field may hold a book."""


def parts(name: str) -> tuple[str, str, str]:
    """The page, style sheet and script of a template."""
    page, style, script = (
        (TEMPLATES / name / f"{name}.{ending}").read_text(encoding="utf-8") for ending in ("html", "css", "js")
    )
    return page, style, script


def policy(style: str, script: str) -> str:
    """The content security policy, as an attribute's value, that allows only this style, this script and inline
    pictures.
    """
    return escape(
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'",
        quote=False,
    )


def shown(text: str) -> str:
    """A text, escaped for HTML and cut if it is very long."""
    return escape(text if len(text) <= CELL else f"{text[:CELL]}…")


def _hash(text: str) -> str:
    """How a content security policy names a style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"

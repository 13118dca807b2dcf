"""Prefect's UI takes descriptions for Markdown; commands and targets must be shown as they are."""

import re

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")  # all that may be escaped: CommonMark 0.31, section 2.4


def literal(text: str) -> str:
    """Markdown that shows one line of text, every character as itself."""
    return _PUNCTUATION.sub(r"\\\1", text)

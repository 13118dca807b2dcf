"""Wildcards as OpenSSH matches them: `*` and `?` alone, lists with commas, `!` to exclude (PATTERNS in ssh_config(5))."""

import re
import string
from fnmatch import translate
from functools import lru_cache

_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def lower(text: str) -> str:
    """Lower the ASCII letters alone, as OpenSSH does in names."""
    return text.lower() if text.isascii() else text.translate(_LOWER)


def matches(name: str, pattern: str) -> bool:
    """Tell whether the whole name fits one pattern."""
    return _compile(pattern).match(name) is not None


def matches_list(name: str, patterns: str) -> bool:
    """Tell whether a name fits one of the patterns and none of those behind a `!`."""
    found = False
    for pattern in patterns.split(","):
        if matches(name, pattern.removeprefix("!")):
            if pattern.startswith("!"):
                return False
            found = True
    return found


@lru_cache(maxsize=16384)
def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern.replace("[", "[[]")))

"""Masks secret values in what hosts print, wherever chunks begin and end."""

import re
from collections.abc import Iterable

MASK = "***"
SHORTEST = 4  # characters; masking shorter values would blot out half of an output, and tell what they are


class Mask:
    """Replaces values in one stream by `***`. What may be the beginning of a value is held back until more has come."""

    def __init__(self, values: Iterable[str]) -> None:
        known = {value.encode(errors="surrogateescape") for value in values if len(value) >= SHORTEST}
        self._values = sorted(known, key=len, reverse=True)  # of two that begin alike the longer one is meant
        self._pattern = re.compile(b"|".join(map(re.escape, self._values)))
        self._firsts = frozenset(value[0] for value in self._values)
        self._held = b""
        self.has_masked = False  # something

    def feed(self, data: bytes) -> bytes:
        """Take a chunk; returns what can be shown by now."""
        if not self._values:
            return data
        data = self._held + data
        shown = bytearray()
        begin, hold = 0, self._beginning(data, 0)
        while (found := self._pattern.search(data, begin)) and found.start() < hold:
            shown += data[begin : found.start()] + MASK.encode()
            self.has_masked = True
            begin = found.end()
            hold = self._beginning(data, begin) if begin > hold else hold
        self._held = data[hold:]
        return bytes(shown + data[begin:hold])

    def end(self) -> bytes:
        """The rest, once no more comes."""
        rest, self._held = self._held, b""
        return self._pattern.sub(MASK.encode(), rest) if self._values else rest

    def text(self, text: str) -> str:
        """A text on its own, masked."""
        if not self._values:
            return text
        return self._pattern.sub(MASK.encode(), text.encode(errors="surrogateescape")).decode(errors="surrogateescape")

    def _beginning(self, data: bytes, start: int) -> int:
        """Where the end of `data` may be the beginning of a value that goes on; its length if nowhere."""
        for place in range(max(start, len(data) - len(self._values[0]) + 1), len(data)):
            if data[place] in self._firsts and self._may_begin(data[place:]):
                return place
        return len(data)

    def _may_begin(self, end: bytes) -> bool:
        return any(len(value) > len(end) and value.startswith(end) for value in self._values)

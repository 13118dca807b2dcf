"""Shows what hosts printed without ever letting it act on the terminal."""


def inert(text: str) -> str:
    """Escape every character that is not plainly printable; tabs stay."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() or character == "\t" else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def lines(text: str) -> list[str]:
    """Output as inert lines, without Windows' line ends."""
    parts = text.split("\n")
    if parts[-1] == "":
        parts.pop()
    return [inert(part.removesuffix("\r")) for part in parts]


def clock(seconds: float | None) -> str | None:
    """A time as people read it, in their zone."""
    if seconds is None:
        return None
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).astimezone().isoformat(sep=" ", timespec="seconds")

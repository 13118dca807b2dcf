"""Shows what hosts printed without ever letting it act on the terminal."""


def inert(text: str) -> str:
    """Escape every character that is not plainly printable; tabs stay."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() or character == "\t" else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def lines(data: bytes) -> list[str]:
    """A stream as inert lines; bytes that are not UTF-8 are escaped, Windows line ends dropped."""
    text = data.decode(errors="backslashreplace")
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


def stamp(seconds: float | None) -> str | None:
    """A time as programs read it: RFC 3339, UTC."""
    if seconds is None:
        return None
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

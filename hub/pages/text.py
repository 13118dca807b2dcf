"""Words for people: what hosts say without ever letting it act on a browser, and times and sizes."""

import re
from datetime import UTC, datetime

from markupsafe import Markup

from models.records import Execution

# Colours, cursor moves and titles (ECMA-48: CSI, OSC, and the short ones); a browser obeys none of them.
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-Z\\^-~])")
_UNITS = ("KiB", "MiB", "GiB", "TiB")


def inert(text: str) -> str:
    """One line, every character that is not plainly printable escaped."""
    return text if text.isprintable() else "".join(map(_shown, text))


def block(text: str) -> str:
    """Text with its line ends and tabs; terminal colours left out, and every other control character escaped."""
    plain = _ANSI.sub("", text.replace("\r\n", "\n")) if "\x1b" in text or "\r" in text else text
    return "\n".join("\t".join(map(inert, line.split("\t"))) for line in plain.split("\n"))


def decoded(data: bytes) -> str:
    """What a host printed, as such a block."""
    return block(data.decode(errors="backslashreplace"))


def clock(seconds: float | None) -> Markup | str:
    """A time, in UTC: people of several zones look at the same page."""
    if seconds is None:
        return ""
    at = datetime.fromtimestamp(seconds, UTC)
    return Markup('<time datetime="{}">{} UTC</time>').format(at.isoformat(timespec="milliseconds"), at.strftime("%Y-%m-%d %H:%M:%S"))


def span(seconds: float | None) -> str:
    """`0.12 s`, `4 min 10 s`, `3 d 2 h`."""
    if seconds is None:
        return ""
    if seconds < 59.95:
        return f"{max(seconds, 0):.{2 if seconds < 9.995 else 1}f} s"
    rest = round(seconds)
    found: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        number, rest = divmod(rest, length)
        if number or found:
            found.append(f"{number} {unit}")
    return " ".join(found[:2])


def size(count: float) -> str:
    """`512 bytes`, `64.0 KiB`."""
    if count < 1024:
        return f"{count:.0f} byte{'' if count == 1 else 's'}"
    power = next((power for power in range(1, len(_UNITS)) if count < 1024 ** (power + 1)), len(_UNITS))
    return f"{count / 1024**power:.1f} {_UNITS[power - 1]}"


def hosts(number: int) -> str:
    """`1 host`, `10,000 hosts`."""
    return f"{number:,} host{'' if number == 1 else 's'}"


def why(execution: Execution) -> str:
    """What its state does not say: `exit code 3`, `connection refused`."""
    return f"exit code {execution.exit_code}" if execution.exit_code else execution.error or ""


def _shown(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()

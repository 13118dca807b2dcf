"""Spans of time as people type them."""

from models.errors import UsageError

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def read_time(text: str) -> float:
    """Seconds, from `90s`, `30m`, `1h` or `7d`; raises `UsageError`."""
    number, unit = text[:-1], text[-1:]
    if not number.isascii() or not number.isdecimal() or unit not in _SECONDS or not int(number):
        raise UsageError(f"--expires {text!r}: write a number and s, m, h or d, such as 1h")
    return float(int(number) * _SECONDS[unit])

"""Script files: what their first line says of who reads them."""

from models.errors import UsageError

_SHELL = ("/bin/sh",)


def interpreter(text: str, chosen: str = "") -> tuple[str, ...]:
    """The program that reads a script, and its argument where the line has one, as Linux reads it (execve(2)).

    That is what somebody has `chosen`, spelled as behind `#!`; else what the script's first line says; else /bin/sh.
    Raises `UsageError` for a line that no system could follow.
    """
    if chosen:
        return _read_chosen(chosen)
    if text.startswith("\ufeff"):
        raise UsageError("the script starts with a byte order mark, which hides its first line; save it as UTF-8 without one")
    line = text.partition("\n")[0]
    if not line.startswith("#!"):
        return _SHELL
    if line.endswith("\r"):
        raise UsageError(f"the script's first line {line!r} ends in CR LF, as Windows writes it; convert its line ends (dos2unix)")
    return _read(line[2:], f"the script's first line {line[:80]!r}")


def _read_chosen(line: str) -> tuple[str, ...]:
    what = f"interpreter {line[:80]!r}"
    if not line.isprintable():
        raise UsageError(f"{what}: give one line, as it stands behind #! in a script")
    return _read(line.removeprefix("#!"), what)


def _read(line: str, what: str) -> tuple[str, ...]:
    program, _, argument = line.strip(" \t").replace("\t", " ", 1).partition(" ")
    if not program.startswith("/"):
        raise UsageError(f"{what}: name the interpreter by its full path, as in #!/usr/bin/env python3")
    return (program, argument.strip(" \t")) if argument.strip(" \t") else (program,)

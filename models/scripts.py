"""Script files: what their first line says of who reads them."""

from models.errors import UsageError

_SHELL = ("/bin/sh",)


def interpreter(text: str) -> tuple[str, ...]:
    """The program that reads a script, and its argument where the line has one, as Linux reads it (execve(2)).

    Without a `#!` line that is /bin/sh. Raises `UsageError` for a line that no system could follow.
    """
    if text.startswith("\ufeff"):
        raise UsageError("the script starts with a byte order mark, which hides its first line; save it as UTF-8 without one")
    line = text.partition("\n")[0]
    if not line.startswith("#!"):
        return _SHELL
    if line.endswith("\r"):
        raise UsageError(f"the script's first line {line!r} ends in CR LF, as Windows writes it; convert its line ends (dos2unix)")
    program, _, argument = line[2:].strip(" \t").replace("\t", " ", 1).partition(" ")
    if not program.startswith("/"):
        raise UsageError(f"the script's first line {line[:80]!r}: name the interpreter by its full path, as in #!/usr/bin/env python3")
    return (program, argument.strip(" \t")) if argument.strip(" \t") else (program,)

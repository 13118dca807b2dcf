"""Script files: read by their interpreter from a file that has no name any more, whatever is done with it: read on, sought, opened again.

The file's folder was made where nobody else can look or list, under a name that was in no argument list, and is gone before
the script is in it: interpreters that search modules beside their script (python) find a folder there that nobody can make.
"""

from collections.abc import Callable

from models.values import Command

Quote = Callable[[str], str]

_FILE = """ff_outer=$(mktemp -d "${TMPDIR:-/tmp}/.fleetflow-XXXXXXXX") && ff_inner=$(mktemp -d "$ff_outer/XXXXXXXX") || ff_refuse spool
(umask 077; set -C; : >"$ff_inner/script") || ff_refuse spool
exec 5>>"$ff_inner/script" 7<"$ff_inner/script"
rm -r "$ff_outer" && head -c SIZE <&3 >&5 || ff_refuse spool
exec 5>&-
ff_script=/dev/fd/9
[ -e /dev/fd/7 ] || ff_script=/proc/self/fd/9
[ -e "${ff_script%9}7" ] || ff_refuse dev_fd"""
_INTERPRETER = "[ -x {program} ] && ! [ -d {program} ] || ff_refuse interpreter"
_RUN = """"$ff_sh" -c 'exec {streams} 3<&- 4>&- 5>&- 8>&-;exec "$@"' sh {words} "$ff_script"{arguments} 9<&7 7<&-"""


def prepare(command: Command, size: int, quote: Quote) -> str:
    """What the wrapper does before the ready mark: it looks for the interpreter, and takes `size` bytes of script."""
    return f"{_INTERPRETER.format(program=quote(command.interpreter[0]))}\n{_FILE.replace('SIZE', str(size))}"


def run(command: Command, quote: Quote, streams: str) -> str:
    """What runs the script, with these redirections of its output."""
    words = " ".join(map(quote, command.interpreter))
    return _RUN.format(streams=streams, words=words, arguments="".join(f" {quote(argument)}" for argument in command.arguments))

"""One host of a task: its tries, and what it printed, a screen at a time."""

from dataclasses import dataclass

from starlette.responses import Response

from hub.pages import text
from hub.pages.screens import SIZE, Screen, screen
from hub.pages.visits import Visit
from models.errors import NotFoundError, UsageError
from models.records import Execution
from models.values import Stream


@dataclass(frozen=True, slots=True)
class _Look:
    """What of a host somebody looks at."""

    number: int
    host: str
    execution: Execution
    tries: list[Execution]
    stream: Stream
    attempt: Execution | None  # None: there has been none
    sizes: dict[Stream, int]  # bytes that it has come to

    @property
    def is_live(self) -> bool:
        return self.attempt is not None and not self.attempt.state.is_final


def show_output(visit: Visit) -> Response:
    """A host of a task; or a part of that, for the script."""
    look = _look(visit)
    match visit.word("part"):
        case "state":
            return visit.render("parts/attempts.html", look=look, is_live=not look.execution.state.is_final)
        case "output":
            shown = _screen(visit, look, visit.number("offset") or 0)
            return visit.render("parts/output.html", look=look, screen=shown, follows=_goes_on(look, shown))
        case "":
            shown = _screen(visit, look, visit.number("offset"))
            return visit.render(
                "output.html",
                look=look,
                screen=shown,
                is_live=not look.execution.state.is_final,
                follows=look.is_live and shown is not None and shown.next is None,
                length=SIZE,
                head=visit.request.app.state.settings.output_limit // 2,
            )
        case other:
            raise UsageError(f"part {text.inert(other)}: there is no such part")


def _look(visit: Visit) -> _Look:
    number: int = visit.request.path_params["number"]
    host: str = visit.request.path_params["host"]
    visit.line(number)
    execution, tries = visit.views.attempts(number, host)
    wanted = visit.number("attempt")
    attempt = next((one for one in tries if one.attempt == wanted), None) if wanted is not None else tries[-1] if tries else None
    if wanted is not None and attempt is None:
        raise NotFoundError("attempt", f"{wanted} at this host")
    sizes = visit.views.sizes(attempt.attempt_id) if attempt and attempt.attempt_id is not None else dict.fromkeys(Stream, 0)
    usual = Stream.STDERR if sizes[Stream.STDERR] and not sizes[Stream.STDOUT] else Stream.STDOUT
    return _Look(number, host, execution, tries, visit.one_of("stream", Stream) or usual, attempt, sizes)


def _screen(visit: Visit, look: _Look, offset: int | None) -> Screen | None:
    if look.attempt is None or look.attempt.attempt_id is None:
        return None
    return screen(visit.views, look.attempt.attempt_id, look.stream, offset, is_final=look.attempt.state.is_final)


def _goes_on(look: _Look, shown: Screen | None) -> bool:
    """Whether there is, or may come, more behind the screen of an attempt that runs."""
    return shown is not None and (look.is_live or shown.next is not None)

"""Logging in with an API token, which the browser then keeps in a cookie that no script reads, and logging out."""

from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hub.auth import COOKIE
from hub.bodies import BodyError, read
from hub.pages.answers import go, render
from models.errors import UnavailableError
from models.tokens import Tokens

_HOME = "/tasks"
_OURS = frozenset({"same-origin", "none"})


async def show_login(request: Request) -> Response:
    """The form. Whoever comes by a link from another site has a cookie that the browser did not send along: one click does."""
    return render("login.html", next=_local(request.query_params.get("next", "")), trouble="")


async def login(request: Request) -> Response:
    """Take a token, and go where it was needed."""
    if refusal := _strange(request):
        return refusal
    try:
        said = parse_qs((await read(request)).decode(errors="replace"), max_num_fields=10)
    except (BodyError, ValueError):
        said = {}
    wanted = _local(said.get("next", [""])[0])
    text = said.get("token", [""])[0].strip()
    tokens: Tokens = request.app.state.tokens
    try:
        token = await run_in_threadpool(tokens.find, text)
    except UnavailableError:
        return render("login.html", 503, next=wanted, trouble="The hub's database does not answer; try again.")
    if token is None:
        return render("login.html", 401, next=wanted, trouble="This is no good token: not known here, expired, or revoked.")
    answer = go(wanted)
    answer.set_cookie(COOKIE, text, path="/", httponly=True, samesite="strict", secure=request.url.scheme == "https")
    return answer


async def logout(request: Request) -> Response:
    """Have the browser forget the token."""
    if refusal := _strange(request):
        return refusal
    answer = go("/login")
    answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict", secure=request.url.scheme == "https")
    return answer


def _strange(request: Request) -> Response | None:
    """A refusal of a form that another site's page has sent, as browsers tell: it is not to log people in as somebody else."""
    if request.headers.get("sec-fetch-site", "none") in _OURS:
        return None
    return render("problem.html", 403, visit=None, title="Not from here", reason="Another site's page has sent this form.")


def _local(path: str) -> str:
    """A path on this hub, whatever somebody wrote into the link."""
    is_local = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable() and path.isascii()
    return path if is_local else _HOME

"""Renders templates, and answers with the headers that keep a page to itself."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import RedirectResponse, Response

from hub.pages import text

_HERE = Path(__file__).parent
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'self'"
)
_ALWAYS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_PAGE = _ALWAYS | {"Cache-Control": "private, no-store", "Vary": "Cookie, Authorization"}
_FILE = _ALWAYS | {"Cache-Control": "public, max-age=31536000, immutable"}


def _versioned(path: Path) -> tuple[str, Path]:
    return f"{path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}{path.suffix}", path


_NAMES = dict(map(_versioned, sorted((_HERE / "static").iterdir())))
_FILES: Mapping[str, tuple[bytes, str]] = MappingProxyType(
    {name: (path.read_bytes(), _TYPES[path.suffix]) for name, path in _NAMES.items()}
)


def href(*parts: object, **query: object) -> str:
    """The path of these parts, each as one step whatever it holds, with those of the query that have a value."""
    given = {name: value for name, value in query.items() if value not in {None, ""}}
    return "/" + "/".join(quote(str(part), safe="") for part in parts) + ("?" + urlencode(given) if given else "")


def _finalize(value: object) -> object:
    """Whatever a template puts into a page is one line without control characters, unless it says `| block`."""
    return text.inert(value) if isinstance(value, str) and not isinstance(value, Markup) else value


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_finalize,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_ENVIRONMENT.filters |= {
    "block": lambda value: escape(text.block(value)),
    "clock": text.clock,
    "span": text.span,
    "size": text.size,
    "why": text.why,
    "hosts": text.hosts,
    "words": lambda state: state.replace("_", " "),
}
_ENVIRONMENT.globals |= {"href": href, "files": {path.name: f"/static/{name}" for name, path in _NAMES.items()}}


def render(template: str, status: int = 200, **values: object) -> Response:
    """A page, or a part of one."""
    return Response(_ENVIRONMENT.get_template(template).render(**values), status, dict(_PAGE), "text/html")


def nothing() -> Response:
    """What is asked for has not changed."""
    return Response(None, 204, dict(_PAGE))


def go(path: str) -> Response:
    """On to another page, by GET."""
    return RedirectResponse(path, 303, dict(_PAGE))


def static(name: str) -> Response:
    """A file that the pages need. Its name changes with what is in it."""
    if name not in _FILES:
        return Response("there is no such file\n", 404, dict(_ALWAYS), "text/plain")
    content, kind = _FILES[name]
    return Response(content, 200, dict(_FILE), kind)

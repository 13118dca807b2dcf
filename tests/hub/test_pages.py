"""The pages, as programs and browsers get them: who sees what, and how much of it."""

import re
from collections.abc import Iterator

import httpx
import pytest
from starlette.routing import Route

from hub.pages.routes import ROUTES
from models.access import Access
from models.states import ExecutionState as S
from models.store import Store
from models.tokens import Role, Scope, Tokens
from tests.hub.tasks import begin
from tests.servers.hub import TESTS, Hub

OPEN = {"/login", "/logout", "/static/{name}"}  # to everybody
FORM = {"content-type": "application/x-www-form-urlencoded"}
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def store(hub: Hub) -> Iterator[Store]:
    store = Store.open(hub.database)
    yield store
    store.close()


@pytest.fixture(scope="module")
def tokens(hub: Hub) -> Iterator[Tokens]:
    access = Access.open(hub.database)
    yield Tokens(access)
    access.close()


@pytest.fixture(scope="module")
def nobody(hub: Hub) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=hub.url, trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def viewer(hub: Hub, tokens: Tokens) -> Iterator[httpx.Client]:
    """A browser that is logged in."""
    with httpx.Client(base_url=hub.url, trust_env=False, timeout=30) as client:
        answer = client.post("/login", data={"token": tokens.create("viewer", Role.VIEWER, TESTS), "next": "/tasks"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/tasks")
        assert re.fullmatch(r"fleetflow=fleetflow_\w{64}; HttpOnly; Path=/; SameSite=strict", answer.headers["set-cookie"])
        yield client


def _paths(route: Route) -> str:
    return re.sub(r"{(\w+)(:\w+)?}", lambda found: {"number": "1", "host": "web1"}[found[1]], route.path)


@pytest.mark.parametrize("path", sorted({_paths(route) for route in ROUTES if route.path not in OPEN}))
@pytest.mark.parametrize("header", [{}, {"cookie": "fleetflow=fleetflow_" + "0" * 64}, {"authorization": "Bearer nonsense"}])
def test_nobody_sees_a_page_without_a_token(nobody: httpx.Client, path: str, header: dict[str, str]) -> None:
    answer = nobody.get(f"{path}?offset=7" if path != "/" else path, headers=header)
    assert answer.status_code == 303
    wanted = "" if path == "/" else "?next=" + f"{path}?offset=7".replace("/", "%2F").replace("?", "%3F").replace("=", "%3D")
    assert answer.headers["location"] == f"/login{wanted}"
    assert answer.content == b""


@pytest.mark.parametrize("path", ["/login", "/tasks", "/tasks/4242", "/fleet", "/fleet/localhost", "/static/none.css"])
def test_every_answer_keeps_scripts_frames_and_copies_away(viewer: httpx.Client, path: str) -> None:
    answer = viewer.get(path)
    policy = answer.headers["content-security-policy"].split("; ")
    assert "default-src 'none'" in policy
    assert {"frame-ancestors 'none'", "base-uri 'none'", "script-src 'self'", "style-src 'self'"} < set(policy)
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert (answer.headers["x-content-type-options"], answer.headers["referrer-policy"]) == ("nosniff", "no-referrer")
    if answer.headers["content-type"].startswith("text/html"):
        assert answer.headers["cache-control"] == "private, no-store"
        assert re.search(r"<script(?! src=)|<style|\sstyle=|\son\w+=", answer.text) is None, "nothing stands inline"


@pytest.mark.parametrize(("path", "status"), [("/nothing", 404), ("/tasks/x", 404), ("/logout", 405), ("/agent/v1/sync", 405)])
def test_where_there_is_no_page_a_browser_gets_one_and_a_program_a_line(nobody: httpx.Client, path: str, status: int) -> None:
    page = nobody.get(path, headers={"accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"})
    assert (page.status_code, page.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert '<a class="brand" href="/tasks">' in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    plain = nobody.get(path)
    assert (plain.status_code, plain.headers["content-type"].split(";")[0], plain.text.count("\n")) == (status, "text/plain", 1)
    assert plain.headers.get("allow") == page.headers.get("allow")


def test_the_api_has_no_pages(viewer: httpx.Client) -> None:
    answer = viewer.get("/api/v1/nothing", headers={"accept": "text/html"})
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


def test_files_are_kept_by_browsers_under_names_that_change_with_them(nobody: httpx.Client) -> None:
    files = re.findall(r"/static/[^\"]+", nobody.get("/login").text)
    assert len(files) == 3
    for file in files:
        answer = nobody.get(file)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert nobody.get(file.replace("-", "-0")).status_code == 404
    assert nobody.get("/static/..%2Froutes.py").status_code == 404


@pytest.mark.parametrize(
    "wanted", ["//evil.example", "https://evil.example", "/\\evil.example", "\\\\evil", "/\tx", "javascript:x", "evil", ""]
)
def test_login_goes_nowhere_else(nobody: httpx.Client, tokens: Tokens, wanted: str) -> None:
    name = f"next{abs(hash(wanted))}"
    answer = httpx.post(
        f"{nobody.base_url}/login", data={"token": tokens.create(name, Role.VIEWER, TESTS), "next": wanted}, trust_env=False
    )
    assert answer.headers["location"] == "/tasks"
    assert 'name="next" value="/tasks"' in nobody.get("/login", params={"next": wanted}).text


def test_login_refuses_what_it_should(nobody: httpx.Client, tokens: Tokens) -> None:
    good = tokens.create("refused", Role.VIEWER, TESTS)
    answer = nobody.post("/login", data={"token": good[:-1] + "x", "next": "/fleet"})
    assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)
    assert 'value="/fleet"' in answer.text
    assert "no good token" in answer.text
    assert nobody.post("/login", data={"token": good}, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert nobody.post("/login", content=b"token=" + b"x" * 2 * MIB, headers=FORM).status_code == 401
    assert nobody.post("/login", content=b"&" * 1000 + b"\xff", headers=FORM).status_code == 401
    assert nobody.get("/tasks", headers={"cookie": f"fleetflow={good}"}).status_code == 200
    tokens.revoke("refused", TESTS)
    assert nobody.get("/tasks", headers={"cookie": f"fleetflow={good}"}).status_code == 303


def test_a_token_with_a_scope_sees_its_own_tasks_alone(nobody: httpx.Client, tokens: Tokens, store: Store) -> None:
    token = tokens.create("hook", Role.OPERATOR, TESTS, scope=Scope("@web", "uptime"))
    theirs, others = begin(store, "web1", created_by="token hook"), begin(store, "web1", created_by="token hook2")
    headers = {"authorization": f"Bearer {token}"}
    listed = nobody.get("/tasks", headers=headers).text
    assert f'href="/tasks/{theirs.id}"' in listed
    assert f'href="/tasks/{others.id}"' not in listed
    for path in ("", "/hosts/web1", "?part=progress", "?part=hosts", "?part=folded", "/hosts/web1?part=output", "/hosts/web1?part=state"):
        assert nobody.get(f"/tasks/{theirs.id}{path}", headers=headers).status_code == 200
        assert nobody.get(f"/tasks/{others.id}{path}", headers=headers).status_code == 404
    assert [nobody.get(path, headers=headers).status_code for path in ("/fleet", "/fleet/web1")] == [403, 403]
    assert "/fleet" not in listed


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/tasks/0", 404), (f"/tasks/{2**70}", 404), ("/tasks/-1", 404), (f"/tasks?before={2**70}", 400), ("/tasks?before=-1", 400),
        ("/tasks?before=²", 400), ("/tasks?state=gone", 400), ("/tasks/1?state=x", 400), ("/tasks/1?after=x:y", 400),
        ("/tasks/1?part=x", 400), ("/tasks/1/hosts/web9", 404), ("/tasks/1/hosts/", 404), ("/tasks/1/hosts/web1?attempt=9", 404),
        ("/tasks/1/hosts/web1?stream=x", 400), ("/tasks/1/hosts/web1?offset=x", 400), ("/tasks/1/hosts/web1?part=x", 400),
        (f"/tasks/1/hosts/web1?offset={2**62}", 200), ("/tasks/1?find=" + "%25" * 100, 200), ("/tasks/1?find=" + "x" * 501, 400),
        ("/fleet/nobody", 404), ("/fleet?state=x", 400), ("/fleet?q=%00%22'%25_", 200), ("/fleet?q=" + "a=b+" * 50, 200),
        ("/fleet?after=%F0%9F%98%80", 200), ("/tasks/1/hosts/%00%FF", 404), ("/fleet/%2e%2e%2fetc", 404),
    ],
)  # fmt: skip
def test_what_is_asked_wrongly_is_refused_in_one_line(viewer: httpx.Client, store: Store, path: str, status: int) -> None:
    if not store.tasks(1):
        begin(store, "web1")
    answer = viewer.get(path)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("text/html") or path == "/tasks/-1"


def test_a_page_is_bounded_whatever_its_hosts_print(viewer: httpx.Client, store: Store) -> None:
    task = begin(store, *(f"h{number:03}" for number in range(250)), command="x" * 100_000)
    task.start(*task.claims)
    for number, host in enumerate(task.claims):
        task.end(host, S.FAILED, f"{number}<>&'\x01".encode() * 8000)
    page = viewer.get(f"/tasks/{task.id}").text
    assert page.count("/hosts/h") < 250
    assert len(page) < 1.5 * MIB
    assert "This page is full" in page
    assert "more characters" in page
    output = viewer.get(f"/tasks/{task.id}/hosts/h007").text
    assert 64 * 1024 < len(output) < 0.75 * MIB
    found, address = [], f"/tasks/{task.id}"
    while address:
        page = viewer.get(address).text
        found += re.findall(r'<th scope="row"><a href="[^"]*/hosts/(h\d+)"', page)
        following = re.search(r'rel="next" href="([^"#]+)', page)
        address = following[1].replace("&amp;", "&") if following else ""
    assert found == list(task.claims)


def test_a_part_that_has_not_changed_is_not_sent_again(viewer: httpx.Client, store: Store) -> None:
    task = begin(store, "web1", "web2")
    for part in ("progress", "hosts"):
        seen = re.search(r'data-seen="(\w+)"', viewer.get(f"/tasks/{task.id}", params={"part": part}).text)
        assert seen
        asked = {"part": part, "seen": seen[1]}
        assert viewer.get(f"/tasks/{task.id}", params=asked).status_code == 204
        task.start("web1" if part == "progress" else "web2")
        answer = viewer.get(f"/tasks/{task.id}", params=asked)
        assert (answer.status_code, "<html" in answer.text) == (200, False)


def test_what_waits_for_approval_says_so(viewer: httpx.Client, store: Store) -> None:
    task = begin(store, "web1")
    store.ask(task.id, "Run <b>it</b> on 1 host?")
    assert re.search(r"Waits for approval.*Run &lt;b&gt;it&lt;/b&gt; on 1 host\?", viewer.get(f"/tasks/{task.id}").text, re.DOTALL)

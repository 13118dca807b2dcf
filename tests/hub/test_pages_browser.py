"""The pages in a browser: logging in, what hosts say doing nothing, and pages that follow what runs."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import ConsoleMessage, Page, expect
from sqlalchemy import update

from models.access import Access
from models.agents import Agents
from models.states import ExecutionState as S
from models.store import Store
from models.tables import AgentRow
from models.tokens import Role, Tokens
from tests.browser.chromium import SIZE, run_chromium
from tests.hub.tasks import begin
from tests.servers.hub import TESTS, Hub

EVIL = "<script>window.owned = 1</script><img src=x onerror='window.owned = 1'>"


@pytest.fixture(scope="module")
def store(hub: Hub) -> Iterator[Store]:
    store = Store.open(hub.database)
    yield store
    store.close()


@pytest.fixture(scope="module")
def token(hub: Hub) -> str:
    access = Access.open(hub.database)
    try:
        return Tokens(access).create("ops", Role.VIEWER, TESTS)
    finally:
        access.close()


@pytest.fixture(scope="module")
def trouble() -> list[str]:
    """What the browser complains about: scripts that fail, and what the pages' policy kept from running."""
    return []


@pytest.fixture(scope="module")
def browser(hub: Hub, trouble: list[str]) -> Iterator[Page]:
    def note(message: ConsoleMessage) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            trouble.append(message.text)

    with run_chromium() as page:
        page.on("console", note)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        yield page


@pytest.fixture
def page(browser: Page, hub: Hub, token: str, trouble: list[str]) -> Iterator[Page]:
    """Logged in."""
    browser.context.add_cookies([{"name": "fleetflow", "value": token, "url": hub.url, "httpOnly": True, "sameSite": "Strict"}])
    yield browser
    assert trouble == []


def _shoot(page: Page, name: str, height: int) -> None:
    """Take a picture for the docs, where SCREENSHOTS names the folder for them."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.set_viewport_size({"width": 960, "height": height})
        page.screenshot(path=Path(folder) / f"{name}.png", animations="disabled")
        page.set_viewport_size({"width": SIZE[0], "height": SIZE[1]})


def test_people_log_in_with_a_token_and_come_to_where_they_wanted(browser: Page, hub: Hub, token: str, trouble: list[str]) -> None:
    browser.goto(f"{hub.url}/fleet?q=a%26b")
    browser.get_by_label("API token").fill("fleetflow_wrong")
    browser.get_by_role("button", name="Log in").click()
    expect(browser.get_by_role("alert")).to_contain_text("no good token")
    browser.get_by_label("API token").fill(f" {token} ")
    browser.get_by_role("button", name="Log in").click()
    expect(browser).to_have_url(f"{hub.url}/fleet?q=a%26b")
    (cookie,) = browser.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["expires"]) == (True, "Strict", -1)
    browser.get_by_role("button", name="Log out").click()
    expect(browser).to_have_url(f"{hub.url}/login")
    assert browser.context.cookies() == []
    browser.goto(f"{hub.url}/tasks")
    expect(browser).to_have_url(re.compile("/login"))
    assert trouble == []


def test_a_task_shows_what_went_wrong_first_and_nothing_in_it_runs(page: Page, hub: Hub, store: Store) -> None:
    task = begin(store, *(f"web{number:02}" for number in range(1, 21)), EVIL, command=f"echo {EVIL}\n# and more")
    task.start(*task.claims)
    for host in task.claims:
        if host in {"web07", "web08"}:
            task.end(host, S.FAILED, f"{EVIL}\x1b[31m red\x1b[0m\x07\n".encode())
        else:
            task.end(host, S.SUCCEEDED, b"fine\n") if host != EVIL else task.end(host, S.LOST, error=f"{EVIL}\u202e\n")
    task.close()
    page.goto(f"{hub.url}/tasks")
    page.get_by_role("row").filter(has_text=EVIL).first.get_by_role("link").first.click()
    expect(page).to_have_title(f"Task {task.id} failed · fleetflow")
    expect(page.get_by_label("Command")).to_have_text(f"echo {EVIL}\n# and more")
    rows = page.locator("#hosts tbody tr")
    assert [row.get_by_role("rowheader").inner_text() for row in rows.all()[:4]] == ["web07", "web08", EVIL, "web01"]
    groups = page.locator("details.group")
    assert [group.locator(".names").inner_text() for group in groups.all()] == ["web[07-08]", EVIL, "web[01-06,09-20]"]
    expect(groups.first).to_have_attribute("open", "")
    expect(groups.first.locator("pre")).to_have_text(f"{EVIL} red\\x07\n")
    page.locator("#hosts").get_by_role("link", name=EVIL).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(EVIL)
    expect(page.locator("#attempts")).to_contain_text(f"{EVIL}\\u202e\\n")
    assert page.evaluate("window.owned") is None


def test_a_page_follows_its_task_to_the_end(page: Page, hub: Hub, store: Store) -> None:
    task = begin(store, *(f"web{number:02}" for number in range(1, 21)), command="nginx -t && systemctl reload nginx")
    page.goto(f"{hub.url}/tasks/{task.id}")
    page.evaluate("window.same = true")
    progress = page.locator("#progress")
    expect(progress).to_contain_text("0 of 20 hosts done")
    hosts = list(task.claims)
    task.start(*hosts[:17])
    task.end("web18", S.UNREACHABLE, error="connection refused by 10.0.4.18:22")
    for host in ("web05", "web07", "web11"):
        task.end(host, S.FAILED, b'nginx: [emerg] unexpected "}" in /etc/nginx/sites-enabled/shop.conf:41\n')
    for host in hosts[11:14]:
        task.end(host, S.SUCCEEDED, b"nginx: configuration file /etc/nginx/nginx.conf test is successful\n")
    expect(progress).to_contain_text("7 of 20 hosts done")
    expect(page.locator("#hosts tbody tr").first).to_contain_text("web05")
    group = page.locator("details.group").filter(has_text="web[05,07,11]")
    expect(group.locator("pre")).to_contain_text("shop.conf:41")
    expect(page.locator("details.group").filter(has_text="web[12-14]")).to_be_visible()
    _shoot(page, "task", 460)
    group.locator("summary").click()
    task.start(*hosts[18:])
    for host in hosts:
        if host not in {"web05", "web07", "web11", "web12", "web13", "web14", "web18"}:
            task.end(host, S.SUCCEEDED, b"ok\n")
    task.close()
    expect(progress).to_contain_text("20 of 20 hosts done")
    expect(page.locator("details.group").filter(has_text="web[01-04,06,08-10,15-17,19-20]")).to_be_visible()
    expect(page.locator("[data-live]")).to_have_count(0)
    expect(page).to_have_title(f"Task {task.id} failed · fleetflow")
    expect(page.locator("#said")).to_have_text(f"task {task.id} failed: 100 % of 20 hosts done, 3 failed, 1 unreachable")
    assert group.get_attribute("open") is None, "what somebody has closed stays closed"
    assert page.evaluate("window.same"), "and all that without loading the page anew"


def test_output_comes_a_screen_at_a_time_and_grows_while_the_command_runs(page: Page, hub: Hub, store: Store) -> None:
    task = begin(store, "web1", "user@[::1]:22")
    whole = "".join(f"{number:06} né\n" for number in range(20_000))
    task.start(*task.claims)
    task.end("user@[::1]:22", S.SUCCEEDED, whole.encode())
    page.goto(f"{hub.url}/tasks/{task.id}")
    page.locator("#hosts").get_by_role("link", name="user@[::1]:22").click()
    output = page.locator("#output")
    expect(output).to_contain_text("019999 né")
    assert "000000" not in output.inner_text()
    page.get_by_role("link", name="First").click()
    found, at = "", 0
    while True:
        expect(page.locator("#place")).to_contain_text(f"bytes {at:,} to {min(at + 65_536, 220_000):,} of 220,000")
        found += output.evaluate("pre => pre.textContent")
        if not (following := page.get_by_role("link", name="Next")).count():
            break
        following.click()
        at += 65_536
    assert found == whole

    page.goto(f"{hub.url}/tasks/{task.id}/hosts/web1")
    expect(page.locator("#place")).to_contain_text("nothing yet")
    half = "one\né".encode()[:-1]
    task.print("web1", 0, half)
    expect(output).to_have_text("one\n")
    task.end("web1", S.FAILED, b"\xa9\nthe end\n", offset=len(half))
    expect(output).to_have_text("one\né\nthe end\n")
    expect(page.locator("#attempts")).to_contain_text("exit code 3")
    expect(page.locator("[data-live]")).to_have_count(0)


def test_who_is_not_logged_in_any_more_is_asked_again(page: Page, hub: Hub, store: Store) -> None:
    task = begin(store, "web1")
    page.goto(f"{hub.url}/tasks/{task.id}")
    page.context.clear_cookies()
    expect(page).to_have_url(f"{hub.url}/login?next=%2Ftasks%2F{task.id}")


def test_a_hub_that_does_not_answer_is_told_and_asked_again(page: Page, hub: Hub, store: Store) -> None:
    task = begin(store, "web1")
    page.goto(f"{hub.url}/tasks/{task.id}")
    page.route("**/*part=*", lambda route: route.abort())
    expect(page.locator("#stale")).to_be_visible()
    page.unroute("**/*part=*")
    task.start("web1")
    task.end("web1", S.SUCCEEDED)
    expect(page.locator("#progress")).to_contain_text("1 of 1 host done")
    expect(page.locator("#stale")).to_be_hidden()


def test_the_fleet_is_found_by_name_group_tag_and_fact(page: Page, hub: Hub, store: Store) -> None:
    (hub.home / "hosts.yaml").write_text(
        "hosts:\n  web[01-12]: {groups: [web], tags: {dc: ams}, user: deploy}\n  db1: {executor: agent, tags: {dc: fra}}\n"
    )
    agents = Agents(store.access)
    facts = {"os": "Debian GNU/Linux 12", "os_id": "debian", "addresses": ["10.0.0.7"], "kernel": EVIL}
    for name, approves in (("db1", True), ("new1", False)):
        agents.join(hub.token(approves=approves), name=name, machine=name, version="1", facts=facts)
    with store.access.writing() as connection:
        connection.execute(update(AgentRow).where(AgentRow.name == "db1").values(seen_at=time.time()))
    task = begin(store, "db1", command="vacuum")
    task.start("db1")
    task.end("db1", S.FAILED)
    page.goto(f"{hub.url}/fleet")
    names = page.locator("tbody th")
    expect(names.first).to_have_text("db1")
    expect(page.get_by_role("row").filter(has_text="db1")).to_contain_text("online")
    _shoot(page, "fleet", 330)
    expect(page.get_by_label("Filter by state")).to_contain_text("pending 1")
    for search, found in (("web 1", ["web01", "web10", "web11", "web12"]), ("@web dc=ams 09", ["web09"]), ("os_id=deb", ["db1", "new1"]),
                          ("10.0.0.7 dc=fra", ["db1"]), ("<b>", [])):  # fmt: skip
        page.get_by_label("Search").fill(search)
        page.get_by_role("button", name="Search").click()
        expect(page).to_have_url(re.compile(r"/fleet\?q=.+"))
        expect(page.get_by_label("Search")).to_have_value(search)
        assert names.all_inner_texts() == found
    page.goto(f"{hub.url}/fleet?state=pending")
    assert names.all_inner_texts() == ["new1"]
    page.goto(f"{hub.url}/fleet")
    page.get_by_role("link", name="db1").click()
    expect(page.locator("main")).to_contain_text("10.0.0.7")
    expect(page.locator("main")).to_contain_text(EVIL)
    page.get_by_role("link", name=str(task.id), exact=True).click()
    expect(page).to_have_url(f"{hub.url}/tasks/{task.id}/hosts/db1")

"""Agents that go and come back: noted once, whichever hub notices."""

import time
import uuid
from collections.abc import Iterator

import pytest
from sqlalchemy import update

from hub.lines import Line, Lines
from models.access import Access
from models.agents import Agents
from models.audit import Actor
from models.exchange import Exchange, Seen
from models.news import Kind, Newsroom
from models.tables import AgentRow

TESTS = Actor("tests", "tests")


@pytest.fixture
def access(url: str) -> Iterator[Access]:
    access = Access.open(url)
    yield access
    access.close()


def test_coming_and_going_is_noted_once_with_its_time(access: Access) -> None:
    agents = Agents(access)
    token = agents.make_token(seconds=60, uses=3, approves=True, by=TESTS)
    ids = [agents.join(token, name=f"web{n}", machine=f"m{n}", version="1", facts={}).id for n in (1, 2, 3)]
    one, other = Exchange(access, bytes, bytes), Exchange(access, bytes, bytes)
    one.saw([Seen(agent, 0, "boot", "1", None, None) for agent in ids[:2]])
    assert one.turn(ids[:2], [], 300) == (["web1", "web2"], [])
    assert other.turn(ids[:2], [], 300) == ([], []), "another hub has noted that"
    began = {agent.name: agent.turned_at for agent in agents.all()}
    assert (began["web1"] is not None, began["web3"]) == (True, None)
    assert one.turn([], ids, 300) == ([], []), "another hub has heard of them"
    with access.writing() as connection:
        connection.execute(update(AgentRow).where(AgentRow.name == "web1").values(seen_at=time.time() - 400))
    assert one.turn([], ids, 300) == ([], ["web1"])
    assert other.turn([], ids, 300) == ([], [])
    (gone,) = [agent for agent in agents.all() if agent.name == "web1"]
    assert (gone.is_online, gone.turned_at) == (False, gone.seen_at)
    one.saw([Seen(ids[0], 0, "boot", "1", None, None)])
    assert one.turn(ids[:1], [], 300) == (["web1"], [])
    told = [(news.kind, news.about) for news in Newsroom(access, "worker").take(9)]
    assert told == [(Kind.ONLINE, ["web1", "web2"]), (Kind.OFFLINE, ["web1"]), (Kind.ONLINE, ["web1"])], "as it happened, each once"


def test_a_hub_asks_about_the_silent_once_in_a_while(access: Access) -> None:
    agents = Agents(access)
    token = agents.make_token(seconds=60, uses=2, approves=True, by=TESTS)
    for n in (1, 2):
        agents.join(token, name=f"web{n}", machine=f"m{n}", version="1", facts={})
    lines = Lines()
    lines.decide(agents.all())
    speaks, silent = (line for agent in agents.all() if (line := lines.find(agent.id)))
    now = time.monotonic()
    speaks.heard_at = now + 1
    assert lines.turned(now + 2, 300) == ([speaks.agent.id], [])
    assert lines.turned(now + 3, 300) == ([], []), "both are known to be there, or too new"
    speaks.heard_at = now + 299
    assert lines.turned(now + 301, 300) == ([], [silent.agent.id])
    assert lines.turned(now + 302, 300) == ([], [])
    assert lines.turned(now + 600, 300) == ([], [speaks.agent.id])
    speaks.heard_at = now + 601
    assert lines.turned(now + 602, 300) == ([speaks.agent.id], [silent.agent.id])
    assert Line(silent.agent).is_there is False
    assert lines.find(uuid.uuid4()) is None

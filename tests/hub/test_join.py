"""Enrolment: tokens, approval, names, and the end of it."""

import asyncio
import os
import resource
import time
import uuid
from pathlib import Path

import httpx
import pytest

from models.access import Access
from models.audit import Audit
from models.errors import AgentStateError, NotFoundError
from models.states import AgentState
from tests.hub.agents import SmallAgent
from tests.hub.conftest import Enrol
from tests.servers.hub import TESTS, Hub, RealAgent
from tests.until import until


async def test_of_a_hundred_joins_with_a_single_use_token_exactly_one_wins(hub: Hub, client: httpx.AsyncClient) -> None:
    token = hub.token(uses=1)
    answers = await asyncio.gather(*(SmallAgent(client, f"race{number}").join(token) for number in range(100)))
    codes = [answer.status_code for answer in answers]
    assert sorted(codes) == [200] + [403] * 99
    assert [agent.name for agent in hub.agents().all() if agent.name.startswith("race")] == [f"race{codes.index(200)}"]


@pytest.mark.parametrize("token", ["", "nonsense", "expired"])
async def test_a_token_that_is_not_good_lets_nobody_in(hub: Hub, client: httpx.AsyncClient, token: str) -> None:
    if token == "expired":
        token = hub.token(seconds=0.01)
        await asyncio.sleep(0.05)
    answer = await SmallAgent(client, "nobody").join(token)
    assert answer.status_code in {400, 403}
    assert "nobody" not in [agent.name for agent in hub.agents().all()]


async def test_a_pending_agent_is_told_to_wait_and_an_approved_one_is_a_host(hub: Hub, client: httpx.AsyncClient) -> None:
    agent = SmallAgent(client, "waits")
    assert (await agent.join(hub.token(approves=False))).json()["state"] == "pending"
    answer = await agent.post()
    assert answer.status_code == 403
    assert answer.json()["retry"] >= 5
    hub.agents().decide(["waits"], AgentState.APPROVED, TESTS)
    async with asyncio.timeout(10):
        while (await agent.post()).status_code != 200:
            await asyncio.sleep(0.05)
    agent = SmallAgent(client, "waits-not")
    assert (await agent.join(hub.token())).json()["state"] == "approved"
    until(lambda: "waits-not" in (hub.home / "hosts.d" / "agents.yaml").read_text(), 10, "its entry in the inventory")


@pytest.mark.parametrize(("state", "code"), [(AgentState.APPROVED, 200), (AgentState.REJECTED, 403)])
async def test_an_agent_that_waits_hears_at_once_what_is_decided(hub: Hub, client: httpx.AsyncClient, state: AgentState, code: int) -> None:
    agent = SmallAgent(client, f"waits-to-be-{state}")
    await agent.join(hub.token(approves=False))
    waits = asyncio.create_task(agent.post(patience=30, known=[]))
    await asyncio.sleep(0.3)
    assert not waits.done()
    hub.agents().decide([agent.name], state, TESTS)
    began = time.monotonic()
    answer = await waits
    assert (answer.status_code, "retry" in answer.json()) == (code, False)
    assert time.monotonic() - began < 3


async def test_an_agent_that_has_waited_in_vain_calls_again_at_once(hub: Hub, client: httpx.AsyncClient) -> None:
    agent = SmallAgent(client, "waits-in-vain")
    await agent.join(hub.token(approves=False))
    began = time.monotonic()
    answer = await agent.post(patience=1)
    assert (answer.status_code, answer.json()["state"], answer.json()["retry"]) == (403, "pending", 0)
    assert 0.8 < time.monotonic() - began < 5
    assert (await agent.post()).json()["retry"] >= 60, "who does not say that it can wait is not held"


def test_an_agent_has_its_first_command_a_moment_after_its_approval(hub: Hub, tmp_path: Path) -> None:
    agent = RealAgent(tmp_path / "real", "waits-really")
    agent.join(hub.url, hub.token(approves=False))
    agent.start()
    try:
        until(lambda: "waits for its approval" in agent.log, 20)
        hub.agents().decide([agent.name], AgentState.APPROVED, TESTS)
        until(lambda: "the hub answers" in agent.log, 5, "an answer to the call that is held for 30 s")
        hub.agents().decide([agent.name], AgentState.REVOKED, TESTS)
        assert agent.process is not None
        assert agent.process.wait(20) == 3
    finally:
        agent.end()


async def test_no_agent_takes_what_is_meant_for_another_host(hub: Hub, client: httpx.AsyncClient) -> None:
    for name in ("localhost", "takes-nothing"):
        assert (await SmallAgent(client, name).join(hub.token())).status_code == 200
    entry = hub.home / "hosts.d" / "agents.yaml"
    until(lambda: entry.exists() and "takes-nothing" in entry.read_text(), 10, "the other one's entry")
    assert "localhost" not in entry.read_text()
    until(lambda: "agent localhost: the inventory reaches this host otherwise" in hub.log)
    joined = [(one.who, one.object) for one in Audit(Access.open(hub.database)).entries() if one.action == "agent.join"]
    assert ("agent takes-nothing", "takes-nothing") in joined


async def test_an_inventory_that_cannot_be_read_is_said_and_keeps_nobody_out(hub: Hub, client: httpx.AsyncClient) -> None:
    (hub.home / "hosts.yaml").write_text("hosts: [\n")
    agent = SmallAgent(client, "joins-all-the-same")
    assert (await agent.join(hub.token())).status_code == 200
    until(lambda: f"agents joins-all-the-same are not in the inventory: {hub.home}/hosts.yaml" in hub.log)
    (hub.home / "hosts.yaml").unlink()
    assert (await agent.post()).status_code == 200


async def test_who_joins_while_no_process_is_to_be_had_is_a_host_later(hub: Hub, client: httpx.AsyncClient) -> None:
    entries = hub.home / "hosts.d" / "agents.yaml"
    assert (await SmallAgent(client, "before-it").join(hub.token())).status_code == 200
    until(lambda: entries.exists() and "before-it" in entries.read_text(), 20)
    assert hub.process is not None
    token, pid = hub.token(), hub.process.pid
    known = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}  # noqa: PTH208 - names are enough
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(set(range(len(taken) + 1)) - taken), known[1]))
    try:
        assert (await SmallAgent(client, "in-it").join(token)).status_code == 200
        until(lambda: "agents are no hosts yet, since no process is to be had: Too many open files" in hub.log, 20)
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, known)
    until(lambda: "in-it" in entries.read_text(), 20)


async def test_a_revoke_cuts_an_open_poll_within_a_second(hub: Hub, enrol: Enrol) -> None:
    agent = await enrol("cut")
    await agent.sync()
    poll = asyncio.create_task(agent.post(wait=30))
    await asyncio.sleep(0.2)
    assert not poll.done()
    began = time.monotonic()
    hub.agents().decide(["cut"], AgentState.REVOKED, TESTS)
    assert (await poll).status_code == 403
    assert time.monotonic() - began < 1
    again = await agent.post()
    assert (again.status_code, again.json()) == (403, {"error": "this agent was revoked", "state": "revoked"}), "it need not ask again"


async def test_a_name_belongs_to_one_machine_until_it_is_revoked_and_passes_nothing_on(hub: Hub, client: httpx.AsyncClient) -> None:
    first, other = SmallAgent(client, "taken"), SmallAgent(client, "taken")
    assert (await first.join(hub.token(), "machine-1")).status_code == 200
    token = hub.token(uses=1)
    assert (await other.join(token, "machine-2")).status_code == 409
    hub.agents().decide(["taken"], AgentState.REVOKED, TESTS)
    assert (await other.join(token, "machine-2")).status_code == 200, "the refused join used the token up"
    assert other.id != first.id
    await shut_out(first)
    again = SmallAgent(client, "taken")
    assert (await again.join(hub.token(), "machine-2")).status_code == 200, "the same machine may join anew"
    await shut_out(other)


async def shut_out(agent: SmallAgent) -> None:
    async with asyncio.timeout(5):
        while (await agent.post()).status_code != 403:
            await asyncio.sleep(0.05)


async def test_people_are_told_what_they_cannot_decide(hub: Hub, enrol: Enrol) -> None:
    await enrol("decided")
    with pytest.raises(NotFoundError, match="no agent nowhere"):
        hub.agents().decide(["decided", "nowhere"], AgentState.REVOKED, TESTS)
    with pytest.raises(AgentStateError, match="is approved"):
        hub.agents().decide(["decided"], AgentState.REJECTED, TESTS)


async def test_a_wrong_credential_is_nobody(enrol: Enrol, client: httpx.AsyncClient) -> None:
    agent = await enrol("careful")
    for one, credential in ((agent.id, "0" * 64), (str(uuid.uuid4()), agent.credential), (agent.id, ""), ("x", "y")):
        answer = await client.post("/agent/v1/sync", json={"v": 1}, headers={"Authorization": f"Bearer {one}.{credential}"})
        assert answer.status_code == 401


def test_who_joined_right_before_the_hub_was_killed_is_a_host_all_the_same(hub: Hub) -> None:
    token = hub.token()
    hub.kill()
    hub.agents().join(token, name="late", machine="late", version="test", facts={})
    hub.start()
    hosts = hub.home / "hosts.d" / "agents.yaml"
    until(lambda: hosts.exists() and "late" in hosts.read_text(), 20, "the host")

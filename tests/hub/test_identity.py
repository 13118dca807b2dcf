"""Who an agent is: its next credential, and machines that come with the identity of another."""

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import uuid
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from executors.agent.executor import ByAgent
from models import bells
from models.agents import Agent
from models.errors import AgentStateError, NotFoundError
from models.states import AgentState
from models.values import Attempt, Command, ExecutorKind, Host, Result
from tests.executors.sinks import Collector
from tests.hub.agents import SmallAgent
from tests.hub.conftest import Enrol
from tests.programs import need
from tests.servers.hub import TESTS, Hub, RealAgent, run_agent
from tests.until import until


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def known(hub: Hub, name: str) -> Agent:
    return next(agent for agent in hub.agents().all() if agent.name == name)


def rotate(hub: Hub, name: str) -> None:
    hub.agents().rotate([name], TESTS)
    bells.ring(hub.home, bells.Kind.HUB)


async def renew(agent: SmallAgent) -> None:
    """Take a new credential, as the hub says."""
    await agent.until("rotate")
    credential = uuid.uuid4().hex * 2
    assert (await agent.sync(next=sha256(credential)))["taken"] == sha256(credential)
    agent.credential, agent.generation = credential, agent.generation + 1
    await agent.sync()


async def test_a_new_credential_is_good_before_the_old_one_ends_whoever_dies_in_between(hub: Hub, enrol: Enrol) -> None:
    agent = await enrol("rotates")
    await agent.sync()
    poll = asyncio.create_task(agent.sync(wait=30))
    await asyncio.sleep(0.1)
    rotate(hub, "rotates")
    assert (await asyncio.wait_for(poll, 5))["rotate"] is True, "an open poll hears of it at once"
    lost, credential = uuid.uuid4().hex * 2, uuid.uuid4().hex * 2
    assert (await agent.sync(next=sha256(lost)))["taken"] == sha256(lost)
    assert (await agent.sync(next=sha256(credential)))["taken"] == sha256(credential), "its file was lost: it made another"
    hub.kill()
    hub.start()
    assert (await agent.until("taken", next=sha256(credential)))["taken"] == sha256(credential), "the answer was lost: it asks again"
    old = replace(agent)
    agent.credential, agent.generation = credential, 2
    await agent.sync()
    hub.kill()
    hub.start()
    await agent.sync()
    await agent.sync()
    assert (await old.post()).status_code == 401
    assert (await replace(old, credential=lost).post()).status_code == 401
    found = known(hub, "rotates")
    assert (found.generation, found.rotating, found.digest) == (2, False, sha256(credential))


@pytest.mark.parametrize("point", ["openat:1", "rename:1", "openat:2", "rename:2"])
async def test_a_kill_between_the_steps_leaves_an_agent_that_can_speak(hub: Hub, executor: ByAgent, tmp_path: Path, point: str) -> None:
    name = f"killed-{point.replace(':', '')}"
    call, _, when = point.partition(":")
    agent = RealAgent(tmp_path / name, name)
    agent.join(hub.url, hub.token())
    rotate(hub, name)
    agent.start(
        need("strace"), "-f", "-qq", "-o", "/dev/null", "-P", str(agent.folder / "identity.new"),
        "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={when}",
    )  # fmt: skip
    assert agent.process
    assert agent.process.wait(30) == -9, agent.log
    agent.start()
    try:
        until(lambda: known(hub, name).generation == 2, 60, "the new credential")
        async with asyncio.timeout(20):
            result = await executor.run(Attempt(id=uuid.uuid4()), agent.host, Command(script="true"), Collector())
        assert result == Result(exit_code=0)
        assert "next" not in json.loads((agent.folder / "identity").read_text())
    finally:
        agent.stop()


async def test_only_approved_agents_take_new_credentials(hub: Hub, client: httpx.AsyncClient) -> None:
    assert (await SmallAgent(client, "rotates-not").join(hub.token(approves=False))).status_code == 200
    with pytest.raises(AgentStateError, match="is pending"):
        hub.agents().rotate(["rotates-not"], TESTS)
    with pytest.raises(NotFoundError):
        hub.agents().rotate(["rotates-nowhere"], TESTS)


@pytest.mark.parametrize("has_rotated", [False, True])
async def test_a_copy_of_an_agent_waits_and_becomes_one_of_its_own(hub: Hub, enrol: Enrol, executor: ByAgent, has_rotated: bool) -> None:
    name = f"cloned-{has_rotated}"
    agent = await enrol(name)
    await agent.sync(machine=name)
    copy = replace(agent, session=uuid.uuid4().hex, boot="another", known={}, has_told=False)
    if has_rotated:
        rotate(hub, name)
        await renew(agent)
        assert known(hub, name).former_digest == sha256(copy.credential)
    assert (await copy.post()).json()["tell"] is True, "it has not said yet which machine it is"
    for _ in range(2):
        held = await copy.post(known=[], machine="another")
        assert (held.status_code, held.json()["retry"] >= 60, f"{name}-2" in held.json()["error"]) == (403, True, True)
    (found,) = [one for one in hub.agents().all() if one.copy_of == uuid.UUID(agent.id)]
    assert (found.name, found.state, found.machine) == (f"{name}-2", AgentState.PENDING, "another")
    assert known(hub, name).machine == name
    if not has_rotated:
        await renew(agent)  # two know the one that it had
    assert (await copy.post(known=[], machine="another")).status_code == 403, "it is still the copy that waits"
    run = asyncio.create_task(
        executor.run(Attempt(id=uuid.uuid4()), Host(name=name, executor=ExecutorKind.AGENT), Command(script="true"), Collector())
    )
    (command,) = (await agent.until("commands"))["commands"]
    waits = asyncio.create_task(copy.post(patience=30, known=[], machine="another"))
    await asyncio.sleep(0.2)
    assert not waits.done()
    hub.agents().decide([f"{name}-2"], AgentState.APPROVED, TESTS)
    bells.ring(hub.home, bells.Kind.HUB)
    lost = await asyncio.wait_for(waits, 5)
    answer = (await copy.post(known=[], machine="another")).json()
    assert answer["identity"] == lost.json()["identity"] == {"agent": str(found.id), "name": f"{name}-2", "generation": 1}
    copy.id = answer["identity"]["agent"]
    told = await copy.sync(machine="another")
    assert not told.get("commands")
    await renew(copy)
    assert known(hub, f"{name}-2").generation == 2
    await agent.sync(refused=[{"id": command["id"], "reason": "enough"}])
    await asyncio.wait({run})
    agent.session, agent.has_told = "restarted", False
    assert "tell" not in await agent.sync(machine=name), "it is itself, and not a copy of its copy"


async def test_a_copy_that_was_rejected_stops(hub: Hub, enrol: Enrol) -> None:
    agent = await enrol("original")
    await agent.sync(machine="original")
    copy = replace(agent, session=uuid.uuid4().hex, has_told=False)
    assert (await copy.post(known=[], machine="another")).status_code == 403
    hub.agents().decide(["original-2"], AgentState.REJECTED, TESTS)
    bells.ring(hub.home, bells.Kind.HUB)
    async with asyncio.timeout(10):
        while "retry" in (answer := (await copy.post(known=[], machine="another")).json()):
            await asyncio.sleep(0.05)
    assert answer == {"error": "this is a copy of original, known here as original-2, which was rejected", "state": "rejected"}
    await renew(agent)
    later = replace(agent, session=uuid.uuid4().hex, has_told=False)
    assert "retry" in (await later.post(known=[], machine="another")).json(), "a later snapshot is another copy"
    await agent.sync()


async def test_of_two_machines_with_one_machine_id_the_later_one_waits(hub: Hub, enrol: Enrol) -> None:
    agent = await enrol("twin")
    await agent.sync()
    poll = asyncio.create_task(agent.sync(wait=30))
    await asyncio.sleep(0.1)
    copy = replace(agent, session=uuid.uuid4().hex, boot="another", known={}, has_told=False)
    assert (await copy.post(known=[])).status_code == 503, "it may have been started anew"
    await asyncio.wait_for(poll, 5)
    assert (await agent.sync())["held"] == 0
    held = await copy.post(known=[])
    assert (held.status_code, "twin-2" in held.json()["error"]) == (403, True)
    assert known(hub, "twin-2").copy_of == uuid.UUID(agent.id)


async def test_a_machine_that_was_cloned_with_its_agent_becomes_one_of_its_own(hub: Hub, executor: ByAgent, tmp_path: Path) -> None:
    if os.geteuid() != 0 or subprocess.run([need("unshare"), "-m", "true"], check=False).returncode:
        pytest.skip("only root can give a process another machine-id")
    (tmp_path / "machine-id").write_text(uuid.uuid4().hex)
    with run_agent(hub, tmp_path / "one", "disk") as agent:
        copy = RealAgent(tmp_path / "two" / "disk", "disk-2")
        shutil.copytree(agent.folder, copy.folder, ignore=shutil.ignore_patterns("news", "lock"))
        elsewhere = ("unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/machine-id && exec "$@"', str(tmp_path / "machine-id"))
        copy.start(*elsewhere)
        until(lambda: "disk-2" in {found.name for found in hub.agents().all()}, 30, "the copy")
        copy.kill()
        hub.agents().decide(["disk-2"], AgentState.APPROVED, TESTS)
        bells.ring(hub.home, bells.Kind.HUB)
        copy.start(*elsewhere)
        try:
            until(lambda: known(hub, "disk-2").generation == known(hub, "disk").generation == 2, 60, "two new credentials")
            for one in (agent, copy):
                sink = Collector()
                async with asyncio.timeout(20):
                    await executor.run(Attempt(id=uuid.uuid4()), one.host, Command(script="cat /etc/machine-id"), sink)
                assert (sink.stdout == (tmp_path / "machine-id").read_bytes()) == (one is copy)
        finally:
            copy.stop()

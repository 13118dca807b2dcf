"""What agents and workers leave for each other: told at once, stored once, whatever happens to whom."""

import asyncio
import time
import uuid

import httpx
import pytest

from executors.agent.executor import ByAgent
from executors.attempt import carry_out
from models.errors import ConnectionLostError, EndNotConfirmedError, NeverStartedError, SpoolLostError, UnreachableError
from models.recorder import Recorder
from models.records import TaskSpec
from models.states import AgentState, ExecutionState, TaskState
from models.values import Attempt, Command, EndedByHost, ExecutorKind, Host, Result, Stream
from tests.executors.sinks import Collector
from tests.hub.agents import SmallAgent, done, piece
from tests.hub.conftest import Enrol
from tests.servers.hub import TESTS, Hub
from tests.until import until


class Run:
    """A command under way on one small agent."""

    def __init__(self, executor: ByAgent, agent: str, **command: object) -> None:
        self.attempt = Attempt(id=uuid.uuid4())
        self.id = str(self.attempt.id)
        self.sink = Collector()
        self.host = Host(name=agent, executor=ExecutorKind.AGENT)
        self.command = Command(script="true", **command)
        self.task = asyncio.ensure_future(executor.run(self.attempt, self.host, self.command, self.sink))

    async def end(self, seconds: float = 10) -> Result | EndedByHost:
        async with asyncio.timeout(seconds):
            return await self.task


async def started(agent: SmallAgent, run: Run) -> None:
    """Take the command, and start it when the hub says so."""
    assert (await agent.until("commands"))["commands"][0]["id"] == run.id
    assert (await agent.hold(run.id))["go"] == [run.id]
    assert run.sink.has_started
    assert (await agent.sync(accepted=[run.id]))["noted"] == [run.id]
    agent.known[run.id] = "running"


async def test_a_command_goes_out_at_once_and_starts_only_when_its_start_is_committed(executor: ByAgent, enrol: Enrol) -> None:
    agent = await enrol("a1")
    await agent.sync()
    poll = asyncio.create_task(agent.sync(wait=20))
    await asyncio.sleep(0.1)
    run = Run(executor, "a1", env={"A": "1"}, stdin=b"\0in", timeout=7)
    (command,) = (await poll)["commands"]
    assert (command["id"], command["script"], command["env"], command["timeout"]) == (run.id, "true", {"A": "1"}, 12)
    assert not run.sink.has_started
    assert (await agent.hold(run.id))["go"] == [run.id]
    assert run.sink.has_started
    await agent.sync(accepted=[run.id], output=[piece(run.id, 0, b"hi\n")], done=[done(run.id, 3)])
    assert await run.end() == Result(exit_code=0)
    assert run.sink.stdout == b"hi\n"
    await executor.ack(run.attempt, run.host)
    assert run.id in (await agent.until("acks"))["acks"]


async def test_whatever_is_said_again_is_stored_once_and_holes_are_asked_for(executor: ByAgent, enrol: Enrol) -> None:
    agent = await enrol("a2")
    run = Run(executor, "a2")
    await started(agent, run)
    told = await agent.sync(output=[piece(run.id, 5, b"late")])
    assert told["stored"] == [{"id": run.id, "stdout": 0, "stderr": 0}], "a piece that leaves a hole is not taken"
    for _ in range(3):
        told = await agent.sync(accepted=[run.id], held=[run.id], output=[piece(run.id, 0, b"hello"), piece(run.id, 0, b"err", "stderr")])
        assert told["stored"] == [{"id": run.id, "stdout": 5, "stderr": 3}]
    told = await agent.sync(output=[piece(run.id, 3, b"lo, you"), piece(run.id, 110, b"end", gap=100)])
    assert told["stored"][0]["stdout"] == 113
    told = await agent.sync(output=[piece(run.id, 120, b"", gap=7)])
    assert told["stored"][0]["stdout"] == 120
    early = {**done(run.id, 200), "stderr": 3}
    assert run.id not in (await agent.sync(done=[early])).get("noted", []), "an end whose output is not here yet waits"
    end = {**done(run.id, 120, 3), "stderr": 3}
    for _ in range(2):
        assert run.id in (await agent.sync(done=[end]))["noted"]
    assert await run.end() == Result(exit_code=3)
    assert (run.sink.stdout, run.sink.stderr) == (b"hello, youend", b"err")
    assert run.sink.gaps[Stream.STDOUT] == 107
    assert run.id in (await agent.sync(done=[{**end, "exit_code": 0}], output=[piece(run.id, 120, b"more")]))["noted"]


async def test_an_agent_that_is_not_there_is_unreachable_and_never_gets_the_command(executor: ByAgent, enrol: Enrol) -> None:
    agent = await enrol("a3")
    run = Run(executor, "a3")
    await asyncio.sleep(0.3)
    run.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run.end()
    assert not run.sink.has_started
    await asyncio.sleep(0.7)
    await agent.sync()
    assert not (await agent.sync()).get("commands")
    with pytest.raises(UnreachableError, match="no agent of the name nobody is approved"):
        await Run(executor, "nobody").end()


async def test_a_refusal_before_the_start_is_unreachable_with_its_reason(executor: ByAgent, enrol: Enrol) -> None:
    agent = await enrol("a4")
    run = Run(executor, "a4")
    await agent.until("commands")
    await agent.sync(refused=[{"id": run.id, "reason": "the disk is\x1b[2J full"}])
    with pytest.raises(UnreachableError, match=r"the disk is \[2J full"):
        await run.end()
    assert not run.sink.has_started


async def test_a_held_command_that_is_refused_after_all_has_never_started(executor: ByAgent, enrol: Enrol) -> None:
    agent = await enrol("a5")
    run = Run(executor, "a5")
    await agent.until("commands")
    await agent.hold(run.id)
    await agent.sync(refused=[{"id": run.id, "reason": "the agent was restarted before it could start"}])
    with pytest.raises(NeverStartedError, match="restarted"):
        await run.end()


async def test_an_agent_that_forgot_what_it_was_told_to_start_is_lost(executor: ByAgent, enrol: Enrol) -> None:
    agent = await enrol("a6")
    run = Run(executor, "a6")
    await started(agent, run)
    agent.session, agent.known, agent.has_told = "another", {}, False
    assert (await agent.sync())["ask"] == [run.id]
    await agent.sync(refused=[{"id": run.id, "reason": "unknown attempt", "unknown": True}])
    with pytest.raises(SpoolLostError, match="does not know the command any more"):
        await run.end()


async def test_an_agent_that_forgot_what_it_only_held_gets_it_once_more(executor: ByAgent, enrol: Enrol, hub: Hub) -> None:
    class Slow(Collector):
        async def starting(self) -> None:
            await go_on.wait()

    go_on = asyncio.Event()
    agent = await enrol("a7")
    run = Run(executor, "a7")
    run.task.cancel()
    sink = Slow()
    attempt = Attempt(id=uuid.uuid4())
    task = asyncio.ensure_future(executor.run(attempt, run.host, run.command, sink))
    while (await agent.until("commands"))["commands"][0]["id"] != str(attempt.id):
        pass
    await agent.sync(held=[str(attempt.id)])
    agent.session, agent.known, agent.has_told = "another", {}, False
    assert (await agent.sync())["ask"] == [str(attempt.id)]
    await agent.sync(refused=[{"id": str(attempt.id), "reason": "unknown attempt", "unknown": True}])
    assert (await agent.until("commands"))["commands"][0]["id"] == str(attempt.id)
    task.cancel()
    await asyncio.wait({task})


@pytest.mark.parametrize(("ended", "error"), [("rebooted", "rebooted"), ("gone", "gone from the host"), ("killed", "were killed")])
async def test_what_the_host_cannot_know_is_lost(executor: ByAgent, enrol: Enrol, ended: str, error: str) -> None:
    agent = await enrol(f"a8-{ended}")
    run = Run(executor, agent.name)
    await started(agent, run)
    await agent.sync(done=[done(run.id, 0, None, ended)])
    with pytest.raises(SpoolLostError, match=error):
        await run.end()


async def test_an_agent_with_few_free_places_gets_the_oldest_first(executor: ByAgent, enrol: Enrol) -> None:
    agent = await enrol("a18-oldest")
    await agent.sync()
    runs = []
    for _ in range(3):
        runs.append(Run(executor, agent.name))
        await asyncio.sleep(0.1)  # each is queued before the next one
    first, second, third = (run.id for run in runs)

    async def gets(**said: object) -> list[str]:
        return [command["id"] for command in (await agent.until("commands", free=1, **said))["commands"]]

    assert await gets() == [first]
    assert not (await agent.sync(free=0, held=[first])).get("commands")
    assert await gets() == [second]
    await agent.sync(free=0, refused=[{"id": second, "reason": "enough"}])
    assert await gets() == [third]
    for run in runs:
        run.task.cancel()
    await asyncio.wait([run.task for run in runs])


async def test_a_cancel_reaches_the_agent_and_waits_for_its_word(executor: ByAgent, enrol: Enrol) -> None:
    agent = await enrol("a9")
    run = Run(executor, "a9")
    await started(agent, run)
    run.task.cancel()
    assert (await agent.until("cancels"))["cancels"] == [run.id]
    await agent.sync(output=[piece(run.id, 0, b"bye")], done=[done(run.id, 3, None, "canceled")])
    with pytest.raises(asyncio.CancelledError):
        await run.end()
    assert run.sink.stdout == b"bye"


async def test_an_agent_that_does_not_confirm_an_end_is_lost(enrol: Enrol, hub: Hub) -> None:
    executor = hub.executor(grace=0.01)
    agent = await enrol("a10")
    run = Run(executor, "a10")
    await started(agent, run)
    run.task.cancel()
    with pytest.raises(EndNotConfirmedError):
        await run.end()
    await executor.aclose()


async def test_an_agent_that_nobody_sees_any_more_or_that_was_revoked_is_lost(enrol: Enrol, hub: Hub) -> None:
    executor = hub.executor(lost_after=1.0)
    for name in ("a11", "a12"):
        agent = await enrol(name)
        run = Run(executor, name)
        await started(agent, run)
        if name == "a12":
            hub.agents().decide([name], AgentState.REVOKED, TESTS)
        with pytest.raises(ConnectionLostError, match="revoked" if name == "a12" else "not seen for 1 s"):
            await run.end(20)
    await executor.aclose()


async def test_an_end_that_comes_after_its_worker_gave_it_up_corrects_the_execution(enrol: Enrol, hub: Hub) -> None:
    executor = hub.executor(lost_after=0.5)
    store, owner = hub._stores[-1], executor._mailbox._owner
    agent, command = await enrol("late"), Command(script="true")
    task = store.open_task(TaskSpec(name="late", command=command, target="late", hosts=("late",)), owner)
    (claim,) = store.claim(task.id, owner)
    recorder = Recorder(store, output_limit=1000)
    recording = recorder.record(claim)
    host, one = Host(name="late", executor=ExecutorKind.AGENT), str(claim.attempt.id)
    run = asyncio.create_task(carry_out(executor, claim.attempt, host, command, recording, connect_timeout=20))
    await agent.until("commands")
    await agent.hold(one)
    await agent.sync(accepted=[one], output=[piece(one, 0, b"begin\n")])
    outcome = await asyncio.wait_for(run, 20)
    assert (outcome.state, await recording.finish(outcome)) == (ExecutionState.LOST, True)
    await recorder.aclose()
    assert store.close_task(task.id).counts[ExecutionState.LOST] == 1
    agent.known[one] = "running"
    await agent.sync(output=[piece(one, 6, b"end\n")], done=[done(one, 10)])
    until(lambda: store.executions(task.id)[0].state is ExecutionState.SUCCEEDED, 30, "the hub's next look")
    assert b"".join(found.data for found in store.output(claim.attempt_id)) == b"begin\nend\n"
    assert (store.task(task.id).state, store.task(task.id).counts) == (TaskState.FAILED, store.recount(task.id))
    assert one in (await agent.until("acks"))["acks"]
    until(lambda: "agents online: " in hub.log, 30, "what the hub says of those who came")
    await executor.aclose()


async def test_the_next_worker_takes_a_run_up_where_its_output_was_stored(executor: ByAgent, enrol: Enrol, hub: Hub) -> None:
    agent = await enrol("a13")
    dead = hub.executor()
    run = Run(dead, "a13")
    await started(agent, run)
    await agent.sync(output=[piece(run.id, 0, b"0123456789")])
    sink = Collector()
    taken = asyncio.ensure_future(executor.recover(run.attempt, run.host, run.command, {Stream.STDOUT: 4}, sink))
    await asyncio.sleep(0.3)
    await agent.sync(output=[piece(run.id, 10, b"ab")], done=[done(run.id, 12)])
    async with asyncio.timeout(10):
        assert await taken == Result(exit_code=0)
    assert sink.stdout == b"456789ab"
    run.task.cancel()
    await asyncio.wait({run.task}, timeout=0.1)
    with pytest.raises(SpoolLostError):
        await executor.recover(Attempt(id=uuid.uuid4()), run.host, run.command, {}, Collector())
    waiting = Run(dead, "a13")
    await agent.until("commands")
    with pytest.raises(NeverStartedError):
        await executor.recover(waiting.attempt, run.host, run.command, {}, Collector())
    waiting.task.cancel()
    await asyncio.wait({waiting.task})


async def test_a_hub_that_is_killed_knows_everything_again(executor: ByAgent, enrol: Enrol, hub: Hub) -> None:
    agent = await enrol("a14")
    run, waiting = Run(executor, "a14"), None
    await started(agent, run)
    hub.kill()
    waiting = Run(executor, "a14")
    hub.start()
    told = await agent.until("commands")
    assert told["commands"][0]["id"] == waiting.id
    await agent.sync(output=[piece(run.id, 0, b"hi")], done=[done(run.id, 2)])
    assert await run.end() == Result(exit_code=0)
    waiting.task.cancel()
    await asyncio.wait({waiting.task})


async def test_an_agent_moves_between_hubs_at_any_time(executor: ByAgent, enrol: Enrol, hub: Hub) -> None:
    agent = await enrol("mover")
    other = Hub(hub.home, hub.settings)
    other.start()
    try:
        async with httpx.AsyncClient(base_url=other.url, timeout=60, trust_env=False) as there:
            here, run = agent.client, Run(executor, "mover")
            assert (await agent.until("commands"))["commands"][0]["id"] == run.id
            agent.client, agent.known[run.id] = there, "held"
            assert "tell" in await agent.sync(held=[run.id]), "this hub has not met it"
            assert (await agent.hold(run.id))["go"] == [run.id]
            agent.client, agent.known[run.id] = here, "running"
            await agent.sync(accepted=[run.id], output=[piece(run.id, 0, b"he")])
            agent.client = there
            await agent.sync(output=[piece(run.id, 2, b"re")], done=[done(run.id, 4)])
            agent.client = here
            await agent.sync(output=[piece(run.id, 2, b"re")], done=[done(run.id, 4)])  # once more: the answer was lost
            assert await run.end() == Result(exit_code=0)
            assert run.sink.stdout == b"here"
    finally:
        other.close()


async def test_no_secret_stands_in_the_database_in_clear(
    executor: ByAgent, enrol: Enrol, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = uuid.uuid4().hex
    monkeypatch.setenv("FLEETFLOW_SECRET_TOKEN", canary)
    agent = await enrol("a15")
    run = Run(executor, "a15", env={"TOKEN": "secret:TOKEN"})
    (command,) = (await agent.until("commands"))["commands"]
    assert command["env"] == {"TOKEN": canary}
    await agent.hold(run.id)
    await agent.sync(accepted=[run.id], output=[piece(run.id, 0, canary.encode())], done=[done(run.id, 32)])
    await run.end()
    assert run.sink.stdout == canary.encode()
    stored = b"".join(path.read_bytes() for path in hub.home.glob("fleetflow.db*"))
    assert canary.encode() not in stored
    assert (hub.home / "bus.key").stat().st_mode & 0o777 == 0o600


async def test_another_agents_attempt_is_none_of_its_business(executor: ByAgent, enrol: Enrol) -> None:
    agent, other = await enrol("a16"), await enrol("a17")
    run = Run(executor, "a16")
    await started(agent, run)
    told = await other.sync(output=[piece(run.id, 0, b"forged")], done=[done(run.id, 6)], known=[{"id": run.id, "state": "running"}])
    assert told["acks"] == [run.id]
    assert not told.get("stored")
    await agent.sync(output=[piece(run.id, 0, b"true")], done=[done(run.id, 4)])
    await run.end()
    assert run.sink.stdout == b"true"


async def test_a_newer_poll_answers_the_older_one_and_a_former_session_is_refused(enrol: Enrol) -> None:
    agent = await enrol("a18")
    await agent.sync()
    older = asyncio.create_task(agent.post(wait=30))
    await asyncio.sleep(0.2)
    newer = asyncio.create_task(agent.post(wait=30))
    assert (await asyncio.wait_for(older, 5)).status_code == 200
    newer.cancel()
    former, agent.session, agent.has_told = agent.session, "next", False
    await agent.sync()
    agent.session = former
    assert (await agent.post()).status_code == 409
    agent.session = "next"
    assert (await agent.post(generation=2)).status_code == 409
    assert (await agent.post()).status_code == 200


@pytest.mark.parametrize("wait", [0, 20])
async def test_what_comes_after_a_newer_poll_goes_to_no_connection_before_it(executor: ByAgent, enrol: Enrol, wait: float) -> None:
    agent = await enrol(f"a19-{wait}")
    await agent.sync()
    older = asyncio.create_task(agent.sync(wait=20, telemetry={}))
    await asyncio.sleep(0.2)
    newer = asyncio.create_task(agent.sync(wait=wait, telemetry={}))
    assert "commands" not in await asyncio.wait_for(older, 5)
    run = Run(executor, agent.name)
    told = await newer if wait else await agent.until("commands", 5, telemetry={})
    assert [command["id"] for command in told["commands"]] == [run.id]
    await agent.sync(refused=[{"id": run.id, "reason": "enough"}])
    with pytest.raises(UnreachableError):
        await run.end()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", 400), (b"[]", 400), (b'{"v":2}', 426), (b"\xff", 400), (b"[" * 100_000, 400), (b'{"v":1}', 400),
        (b'{"v":1,"session":"s","boot":"b","generation":1,"version":"1","held":["x"]}', 400),
        (b'{"v":1,"session":"s","boot":"b","generation":1,"version":"1","wait":-1}', 400),
        (b'{"v":1,"session":"s","boot":"b","generation":1,"version":"1","wait":NaN}', 400),
        (b'{"v":1,"session":"s","boot":"b","generation":1,"version":"1","done":[{"id":"%s","exit_code":999}]}' % (b"0" * 32), 400),
        (b'{"v":1,"session":"s","boot":"b","generation":true,"version":"1"}', 400),
        (b" " * (1024 * 1024 + 1), 413),
    ],
)  # fmt: skip
async def test_nonsense_is_refused_in_one_line(enrol: Enrol, client: httpx.AsyncClient, body: bytes, code: int) -> None:
    agent = await enrol(f"n{uuid.uuid4().hex[:8]}")
    answer = await client.post("/agent/v1/sync", content=body, headers={"Authorization": f"Bearer {agent.id}.{agent.credential}"})
    assert answer.status_code == code
    assert set(answer.json()) == {"error"}


async def test_many_agents_at_once(executor: ByAgent, enrol: Enrol, hub: Hub) -> None:
    agents = await asyncio.gather(*(enrol(f"many{number}") for number in range(50)))
    tasks = [asyncio.create_task(agent.serve()) for agent in agents]
    await asyncio.sleep(0.5)
    began = time.monotonic()
    runs = [Run(executor, agent.name) for agent in agents]
    ends = await asyncio.gather(*(run.end(30) for run in runs))
    assert time.monotonic() - began < 20
    assert ends == [Result(exit_code=0)] * 50
    assert {run.sink.stdout for run in runs} == {b"hi\n"}
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)

"""Lists in pages and parts of outputs, as each database gives them."""

import uuid

from models.access import Access
from models.agents import Agents
from models.listing import Listing, Wanted
from models.records import Finished, Outcome, Piece, Printed, Started
from models.states import AgentState, ExecutionState, TaskState
from models.store import Store
from models.values import Stream
from tests.models.test_store import OWNER, SUCCEEDED, spec, start
from tests.models.test_tokens import ALICE

FAR = 2**53  # the largest number that the API takes


def test_tasks_and_executions_are_found_in_pages(store: Store, access: Access) -> None:
    listing = Listing(access)
    flow_run_id = uuid.uuid4()
    one = store.open_task(spec("web1", "web2", "web3", flow_run_id=flow_run_id), OWNER)
    two = store.open_task(spec("db1"), OWNER)
    assert [task.id for task in listing.tasks(Wanted(), 10)] == [two.id, one.id]
    assert [task.id for task in listing.tasks(Wanted(), 10, before=two.id)] == [one.id]
    assert [task.id for task in listing.tasks(Wanted(host="web2", state=TaskState.PENDING, name="es", since=0), 10, before=FAR)] == [one.id]
    assert listing.tasks(Wanted(name="_"), 10) == listing.tasks(Wanted(created_by="x"), 10) == [], "taken as it stands"
    start(store, store.claim(one.id, OWNER)[1])
    assert [row.host for row in listing.executions(one.id, [ExecutionState.QUEUED], 10)] == ["web1", "web3"]
    first = listing.executions(one.id, [], 2)
    assert [row.host for row in listing.executions(one.id, [], 2, after=first[-1].id)] == ["web3"]
    assert listing.executions(one.id, [], 2, after=FAR) == []
    tasks, executions = listing.task_counts(since=0)
    assert (tasks["running"], tasks["pending"], executions["running"], executions["pending"]) == (1, 1, 1, 1)
    (line,) = (line for line in store.tasks(10) if line.id == one.id)
    assert uuid.UUID(line.flow_run_id or "") == flow_run_id


def test_agents_come_by_name_in_pages_without_a_gap(access: Access) -> None:
    agents = Agents(access)
    token = agents.make_token(seconds=60, uses=20, approves=True, by=ALICE)
    names = ["b", "A", "a", "B", "a-1", "a.1", "a1", "ab", "Ab", "_a", "a", "a", "a"]
    joined = {agents.join(token, name=name, machine=name, version="1", facts={"text": "a\0b"}).id: name for name in names}
    listing, states = Listing(access), [AgentState.APPROVED, AgentState.REVOKED]
    found = listing.agents(states, 2)
    while page := listing.agents(states, 2, found[-1].name, found[-1].id):
        found += page
    assert {agent.id: agent.name for agent in found} == joined, "four of one name, of whom three were shut out"
    assert len(found) == len(joined)
    assert "a" not in {agent.name for agent in listing.agents(states, 20, "a")}


def test_a_part_of_an_output_is_read_across_its_pieces(store: Store, access: Access) -> None:
    task = store.open_task(spec("web1"), OWNER)
    (claim,) = store.claim(task.id, OWNER)
    out = Stream.STDOUT
    store.write([Started(claim, 1.0), Printed(claim, (Piece(out, 0, b"abcdef"),)), Printed(claim, (Piece(out, 6, b"ghij"),))])
    store.write([Finished(claim, 2.0, ExecutionState.RUNNING, SUCCEEDED, (Piece(out, 20, "é!".encode()),), {out: 10})])
    listing = Listing(access)

    def read(offset: int, limit: int) -> tuple[int, bytes, int, int]:
        part = listing.output(claim.attempt_id, out, offset, limit)
        return part.offset, part.data, part.left_out, part.size

    assert read(4, 4) == (4, b"efgh", 0, 23)
    assert read(8, 100) == (8, b"ij", 0, 23)
    assert read(10, 2) == (20, "é".encode(), 10, 23)
    assert read(FAR, 10)[1] == b""


def test_what_no_database_takes_is_no_reason_to_lose_the_rest(store: Store) -> None:
    task = store.open_task(spec("web1", "web2"), OWNER)
    odd, plain = store.claim(task.id, OWNER)
    store.write([Started(odd, 1.0), Started(plain, 1.0)])
    lost = Outcome(state=ExecutionState.LOST, error="said \0 and went")
    ends = [Finished(odd, 2.0, ExecutionState.RUNNING, lost, (), {}), Finished(plain, 2.0, ExecutionState.RUNNING, SUCCEEDED, (), {})]
    assert store.write(ends) == [True, True]
    assert (store.executions(task.id)[0].error or "").replace("\ufffd", "\0") == lost.error

"""What a hub knows of one agent: what it is told next, and whose words it says."""

import json
import time
import uuid

from hub.lines import Line, Whose
from hub.wire import Answer, Sync, read_sync
from models.agents import Agent
from models.exchange import Order
from models.reports import Receipt, Report
from models.states import AgentState, DeliveryState

AGENT = Agent(
    id=uuid.uuid4(), name="web1", state=AgentState.APPROVED, machine="m", generation=1, digest="", next_digest=None, former_digest=None,
    rotating=False, copy_of=None, joined_at=0, decided_by=None, seen_at=None, boot=None, is_online=False, turned_at=None, version=None,
    facts={}, telemetry={},
)  # fmt: skip


def test_commands_are_told_in_the_order_of_their_deliveries_whenever_they_came() -> None:
    line = Line(AGENT)
    orders = {number: Order(number, uuid.uuid4(), AGENT.id, uuid.uuid4(), DeliveryState.QUEUED, canceled=False) for number in range(1, 5)}
    for number in (3, 1, 4, 2):
        line.order(orders[number])
    line.free = 2
    assert [attempt for attempt, _ in line.due(100)] == [orders[1].attempt, orders[2].attempt]
    del line.todo[orders[1].attempt]  # it was held, forgotten, and is to be held once more
    line.order(orders[1])
    line.free = 1
    assert [attempt for attempt, _ in line.due(100)] == [orders[1].attempt]


def said(session: str, boot: str, *, tells: bool = True, **more: object) -> Sync:
    raw = {"v": 1, "session": session, "boot": boot, "generation": 1, "version": "1", "free": 1} | ({"known": []} if tells else {})
    return read_sync(uuid.uuid4(), json.dumps(raw | more).encode())


def test_a_machine_that_was_started_anew_is_itself_once_its_former_session_is_silent() -> None:
    line = Line(AGENT)

    def judge(sync: Sync, now: float) -> Whose:
        whose = line.judge(sync, now, is_former=False, held=())
        if whose is Whose.OWN:
            line.hear(sync, now)
        return whose

    assert judge(said("s1", "b1"), 100) is Whose.OWN
    assert judge(said("s2", "b1"), 101) is Whose.OWN, "a service that was restarted"
    assert judge(said("s1", "b1", tells=False), 102) is Whose.OTHER
    assert [judge(said("s3", "b2"), now) for now in (103, 107, 109)] == [Whose.DOUBT, Whose.DOUBT, Whose.OWN]
    assert judge(said("s4", "b3"), 200) is Whose.OWN, "nothing was heard for long"
    assert judge(said("s3", "b2", tells=False), 300) is Whose.OWN, "it was away, and was there first"
    assert judge(said("s4", "b3"), 301) is Whose.DOUBT
    assert judge(said("s3", "b2", tells=False), 302) is Whose.OWN
    assert judge(said("s4", "b3"), 303) is Whose.COPY


def test_what_was_under_way_with_a_credential_that_was_replaced_is_late_and_no_copy() -> None:
    line = Line(AGENT)
    for session in ("s1", "s2"):
        line.hear(said(session, "b1"), 100)
    whose = [line.judge(said(session, "b1"), 101, is_former=True, held=()) for session in ("s1", "s2", "s3")]
    assert whose == [Whose.LATE, Whose.LATE, Whose.COPY]


def test_what_a_receipt_lets_an_agent_forget_is_not_named_twice() -> None:
    line, attempt = Line(AGENT), uuid.uuid4()
    line.order(Order(1, attempt, line.agent.id, uuid.uuid4(), DeliveryState.CLOSED, canceled=False))
    receipt = Receipt(forget=[attempt])
    line.heed(Report(line.agent.id), receipt)
    answer = Answer(acks=receipt.forget)
    line.fill(answer, {}, time.monotonic(), is_poll=False)
    assert answer.acks == [attempt]


def test_what_is_to_be_forgotten_rides_along_with_the_next_answer() -> None:
    line, attempt = Line(AGENT), uuid.uuid4()
    line.order(Order(1, attempt, line.agent.id, uuid.uuid4(), DeliveryState.CLOSED, canceled=False))
    for expected in ([attempt], []):
        answer = Answer()
        line.fill(answer, {}, time.monotonic(), is_poll=True)
        assert answer.acks == expected


def test_what_got_lost_on_one_connection_is_told_again_whatever_came_by_the_other() -> None:
    line, attempt = Line(AGENT), uuid.uuid4()
    line.order(Order(1, attempt, line.agent.id, uuid.uuid4(), DeliveryState.CLOSED, canceled=False))

    def told(sync: Sync) -> list[uuid.UUID]:
        line.hear(sync, time.monotonic())
        answer = Answer()
        line.fill(answer, {}, time.monotonic(), is_poll=sync.is_poll)
        return answer.acks

    poll, report = said("s1", "b1", telemetry={"load1": 1}), said("s1", "b1", tells=False)
    lost = said("s1", "b1", tells=False, telemetry={"load1": 1}, again=True)
    assert [told(poll), told(report), told(lost), told(lost), told(poll)] == [[attempt], [], [attempt], [attempt], []]

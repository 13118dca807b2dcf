"""API tokens, and the audit trail that all changes leave."""

import threading

import pytest

from models.access import Access
from models.audit import NOTHING, Actor, Audit, Result
from models.errors import AuditError, NotFoundError, UsageError
from models.tokens import Role, Scope, Tokens
from tests.models.conftest import Raw

ALICE = Actor("alice", "command line")


def test_a_token_is_found_by_itself_alone_until_it_is_revoked(access: Access, url: str, raw: Raw) -> None:
    tokens = Tokens(access)
    clear = tokens.create("ci", Role.OPERATOR, ALICE, scope=Scope("@web", "uptime"))
    found = tokens.find(clear)
    assert found is not None
    assert (found.name, found.role, found.scope) == ("ci", Role.OPERATOR, Scope("@web", "uptime"))
    assert tokens.find(clear[:-1] + "x") is None
    assert clear not in str(raw(url, "SELECT * FROM api_token") + raw(url, "SELECT * FROM audit"))
    with pytest.raises(UsageError, match="there is one of that name"):
        tokens.create("ci", Role.VIEWER, ALICE)
    tokens.revoke("ci", ALICE)
    assert tokens.find(clear) is None
    with pytest.raises(NotFoundError, match="no token ci"):
        tokens.revoke("ci", ALICE)
    again = tokens.create("ci", Role.VIEWER, ALICE)
    assert tokens.find(clear) is None, "a name that is used again inherits nothing"
    assert tokens.find(again) is not None


def test_a_token_ends_with_its_time(access: Access) -> None:
    tokens = Tokens(access)
    assert tokens.find(tokens.create("brief", Role.VIEWER, ALICE, seconds=-1)) is None


def test_a_scope_is_for_an_operator(access: Access) -> None:
    with pytest.raises(UsageError, match="its role is operator"):
        Tokens(access).create("hook", Role.ADMIN, ALICE, scope=Scope("@web", "uptime"))


@pytest.mark.parametrize(
    ("role", "may"), [(Role.VIEWER, [True, False, False]), (Role.OPERATOR, [True, True, False]), (Role.ADMIN, [True] * 3)]
)
def test_a_role_may_what_those_before_it_may(role: Role, may: list[bool]) -> None:
    assert [role.may(needed) for needed in Role] == may


def test_changes_and_refusals_are_in_the_trail(access: Access) -> None:
    tokens, trail = Tokens(access), Audit(access)
    assert trail.verify() == (0, NOTHING)
    tokens.create("ci", Role.VIEWER, ALICE)
    trail.refuse(Actor("token ci", "10.0.0.7"), "task.create", "uptime\n\x1b[2J on @web", "the role viewer may not")
    newest, oldest = trail.entries()
    assert (oldest.who, oldest.source, oldest.action, oldest.object, oldest.result) == (
        "alice",
        "command line",
        "token.create",
        "ci",
        "done",
    )
    assert (newest.who, newest.source, newest.result) == ("token ci", "10.0.0.7", Result.REFUSED)
    assert newest.object == "uptime  [2J on @web"
    assert trail.verify() == (2, newest.digest)
    assert [entry.id for entry in trail.entries(limit=5, before=2)] == [1]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("UPDATE audit SET who = 'bob' WHERE id = 2", "entry 2 is not what was written"),
        ("UPDATE audit SET at = at + 1 WHERE id = 2", "entry 2 is not what was written"),
        ("DELETE FROM audit WHERE id = 2", "entry 2 is missing"),
        ("DELETE FROM audit WHERE id = 1", "entry 1 is missing"),
        ("DELETE FROM audit WHERE id = 3", "it was cut off"),
    ],
)
def test_a_trail_that_was_changed_is_seen(access: Access, url: str, raw: Raw, harm: str, message: str) -> None:
    trail = Audit(access)
    for number in range(3):
        trail.refuse(ALICE, "test", number, "")
    _, head = trail.verify()
    raw(url, harm)
    with pytest.raises(AuditError, match=message):
        trail.verify(head)


def test_the_chain_holds_when_many_write_at_once(access: Access) -> None:
    trail = Audit(access)

    def write() -> None:
        for number in range(50):
            trail.refuse(ALICE, "test", number, "")

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    count, head = trail.verify()
    assert count == 200
    trail.refuse(ALICE, "test", "later", "")
    assert trail.verify(head)[0] == 201

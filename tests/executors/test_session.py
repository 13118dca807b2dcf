"""The session without a shell: what it refuses to send, and how it reads the answers."""

import re
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executors.lifeline import REMOTE_LINE, Session
from models.errors import UsageError
from models.values import Attempt, Command, Stream


def _session(script: str = "true", *, env: dict[str, str] | None = None, **command: object) -> Session:
    return Session(Attempt(id=uuid.uuid4()), Command(script=script, **command), env=env or {}, grace=2, beat_timeout=30)


def test_the_remote_line_is_free_of_what_login_shells_read_differently() -> None:
    assert re.fullmatch(r"exec /bin/sh -c '[^'!\\\n]*'", REMOTE_LINE)


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A=B", "A\n", "é", "A;id", "UID", "PPID", "FLEETFLOW_ATTEMPT", "ff_sh"])
def test_names_that_cannot_be_exported_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        _session(env={name: "x"})


@pytest.mark.parametrize("arguments", [{"script": "a\0b"}, {"cwd": "a\0b"}, {"env": {"A": "a\0b"}}, {"env": {"A": "x" * 131_072}}])
def test_what_a_shell_cannot_be_given_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        _session(**arguments)


_PIECES = st.one_of(
    st.binary(max_size=40), st.sampled_from([b"\x1e", b"\x1eMARK"[:3], b"\n", b"exit 3\n", b"ready\n", b"HALF", b"MARKx", b"\x1e\x1e"])
)


@given(st.data())
def test_any_chunking_gives_exactly_the_output(data: st.DataObject) -> None:
    session = _session()
    mark = b"\x1e" + re.search(rb"ff_nonce='(\w+)'", session.payload)[1]
    exact = {b"HALF": mark[:20], b"MARKx": mark[:-1] + b"x"}
    noise, output, late = (b"".join(exact.get(piece, piece) for piece in data.draw(st.lists(_PIECES, max_size=12))) for _ in range(3))
    whole = noise + mark + b"ready\n" + output + mark + b"exit 137\n" + late
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=30)))
    chunks = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    for stream in Stream:
        assert session.exit_code is None
        assert b"".join(session.feed(stream, chunk) for chunk in chunks) == output
    assert session.exit_code == 137
    assert session.feed(Stream.STDOUT, b"more") == b""


def test_output_is_not_held_back_without_need() -> None:
    session = _session()
    mark = b"\x1e" + re.search(rb"ff_nonce='(\w+)'", session.payload)[1]
    session.feed(Stream.STDOUT, mark + b"ready\n")
    assert session.feed(Stream.STDOUT, b"a prompt: ") == b"a prompt: "
    assert session.feed(Stream.STDOUT, b"\x1e is no mark") == b"\x1e is no mark"
    assert session.feed(Stream.STDOUT, b"x" + mark[:5]) == b"x"
    assert session.feed(Stream.STDOUT, b"y") == mark[:5] + b"y"


def test_50_mib_cost_little() -> None:
    session = _session()
    mark = b"\x1e" + re.search(rb"ff_nonce='(\w+)'", session.payload)[1]
    session.feed(Stream.STDOUT, mark + b"ready\n")
    chunk = bytes(range(256)) * 256
    began = time.process_time()
    for _ in range(800):
        session.feed(Stream.STDOUT, chunk)
    assert time.process_time() - began < 1

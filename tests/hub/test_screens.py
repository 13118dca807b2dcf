"""Output by the screen: nothing is shown twice or never, whichever way one goes, and nothing acts on the browser."""

import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hub.pages import text
from hub.pages.screens import Screen, screen
from models import database
from models.records import Claim, Finished, Outcome, Piece, Started, TaskSpec
from models.states import ExecutionState as S
from models.store import Store
from models.values import Command, Stream
from models.views import Views

OUT = Stream.STDOUT


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path_factory.mktemp('screens') / 'fleetflow.db'}"
    database.upgrade(url)
    store = Store.open(url)
    yield store
    store.close()


def claim(store: Store) -> Claim:
    task = store.open_task(TaskSpec(name="n", command=Command(script="true"), target="t", hosts=("h",)), "me")
    return store.claim(task.id, "me")[0]


def printed(store: Store, *pieces: tuple[int, bytes], is_final: bool = True) -> int:
    taken = claim(store)
    found = tuple(Piece(OUT, offset, data) for offset, data in pieces)
    store.write([Started(taken, time.time())])
    store.write([Finished(taken, time.time(), S.RUNNING, Outcome(state=S.SUCCEEDED, exit_code=0), found, {})])
    return taken.attempt_id


def words(shown: Screen) -> str:
    return "".join(part.text for part in shown.parts)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from("ab\nä€😀"), min_size=1, max_size=60), st.integers(1, 9), st.integers(4, 20))
def test_screens_put_together_are_the_output_in_both_directions(store: Store, whole: str, step: int, size: int) -> None:
    data = whole.encode()
    attempt = printed(store, *((at, data[at : at + step]) for at in range(0, len(data), step)))
    views = Views(store.access)

    def show(start: int | None) -> Screen:
        return screen(views, attempt, OUT, start, is_final=True, size=size)

    forward, at = "", 0
    while True:
        shown = show(at)
        forward += words(shown)
        if shown.next is None:
            break
        at = shown.next
    assert forward == whole
    shown = show(None)
    backward = words(shown)
    while shown.previous is not None and shown.start > 0:
        before = shown.start
        shown = screen(views, attempt, OUT, shown.previous, is_final=True, size=before - shown.previous)
        backward = words(shown) + backward
    assert backward == whole


def test_what_was_left_out_is_counted_once(store: Store) -> None:
    attempt = printed(store, (0, b"a" * 100), (1000, b"z" * 100))
    views = Views(store.access)
    shown = screen(views, attempt, OUT, 0, is_final=True, size=150)
    assert [(part.left_out, part.text) for part in shown.parts] == [(0, "a" * 100)]
    assert shown.next == 1000
    shown = screen(views, attempt, OUT, 1000, is_final=True, size=150)
    assert [(part.left_out, part.text) for part in shown.parts] == [(900, "z" * 100)]
    assert (shown.previous, shown.next) == (0, None)
    shown = screen(views, attempt, OUT, 0, is_final=True, size=2000)
    assert [(part.left_out, part.text) for part in shown.parts] == [(0, "a" * 100), (900, "z" * 100)]


def test_half_a_character_waits_for_its_other_half_while_the_command_runs(store: Store) -> None:
    attempt = printed(store, (0, "caf€".encode()[:-1]))
    views = Views(store.access)
    shown = screen(views, attempt, OUT, 0, is_final=False)
    assert (words(shown), shown.following) == ("caf", 3)
    assert words(screen(views, attempt, OUT, 0, is_final=True)) == "caf\\xe2\\x82"


def test_text_is_inert() -> None:
    assert text.decoded(b"\x1b[1;31mred\x1b[0m\x1b]0;title\x07 ok\r\n") == "red ok\n"
    assert text.decoded(b"50%\r100%\x07\x00 \xff\x1b[31") == "50%\\r100%\\x07\\x00 \\xff\\x1b[31"
    assert text.decoded("a\u202eb\u2028c\td".encode()) == "a\\u202eb\\u2028c\td"
    assert text.inert("a\nb\ud800") == "a\\nb\\ud800"


def test_sizes_and_times_are_for_people() -> None:
    assert [text.size(count) for count in (0, 1, 1023, 1024, 1536, 2**20, 5 * 2**40, 2**60)] == [
        "0 bytes", "1 byte", "1023 bytes", "1.0 KiB", "1.5 KiB", "1.0 MiB", "5.0 TiB", "1048576.0 TiB",
    ]  # fmt: skip
    assert [text.span(seconds) for seconds in (0.1234, 59.94, 59.96, 61, 3600, 90000, -1)] == [
        "0.12 s", "59.9 s", "1 min 0 s", "1 min 1 s", "1 h 0 min", "1 d 1 h", "0.00 s",
    ]  # fmt: skip
    assert str(text.clock(0)) == '<time datetime="1970-01-01T00:00:00.000+00:00">1970-01-01 00:00:00 UTC</time>'

from hypothesis import given
from hypothesis import strategies as st

from models.output import Capture
from models.records import Piece
from models.values import Stream

OUT = Stream.STDOUT


def _kept(pieces: list[Piece]) -> list[tuple[int, bytes]]:
    return [(piece.offset, piece.data) for piece in pieces if piece.stream is OUT]


@given(chunks=st.lists(st.binary(max_size=40), max_size=30), limit=st.integers(2, 200), take_after=st.sets(st.integers(0, 30)))
def test_head_and_tail_are_exact_and_the_cut_is_what_lies_between(chunks: list[bytes], limit: int, take_after: set[int]) -> None:
    capture = Capture(limit)
    pieces: list[Piece] = []
    for number, chunk in enumerate(chunks):
        capture.add(OUT, chunk)
        if number in take_after:
            pieces.extend(capture.take())
    rest, cut = capture.finish()
    pieces.extend(rest)
    whole = b"".join(chunks)
    kept = _kept(pieces)
    assert sum(len(data) for _, data in kept) + cut[OUT] == len(whole)
    assert sum(len(data) for _, data in kept) == min(len(whole), limit)
    for offset, data in kept:
        assert whole[offset : offset + len(data)] == data


def test_only_the_first_bytes_of_an_empty_head_ask_to_be_taken() -> None:
    capture = Capture(100)
    assert capture.add(OUT, b"a")
    assert not capture.add(OUT, b"b")
    capture.take()
    assert capture.add(OUT, b"c")
    capture.take()
    assert not capture.add(OUT, b"")


def test_streams_are_kept_apart() -> None:
    capture = Capture(4)
    capture.add(Stream.STDOUT, b"out")
    capture.add(Stream.STDERR, b"long error")
    pieces, cut = capture.finish()
    assert cut == {Stream.STDOUT: 0, Stream.STDERR: 6}
    assert [piece.data for piece in pieces if piece.stream is Stream.STDERR] == [b"lo", b"or"]


def test_the_last_lines_survive_that_the_head_was_taken() -> None:
    capture = Capture(1000)
    capture.add(OUT, b"one\ntwo\nthree\n")
    capture.take()
    assert capture.last_lines(OUT, 2) == ["two", "three"]

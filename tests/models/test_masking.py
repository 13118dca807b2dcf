"""Secret values never come through a mask, however the chunks fall."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.masking import Mask
from models.secrets import Revealed, fill, names, reveal, values_of


def _through(values: list[str], *chunks: bytes) -> bytes:
    mask = Mask(values)
    return b"".join(mask.feed(chunk) for chunk in chunks) + mask.end()


@pytest.mark.parametrize(
    ("values", "chunks", "shown"),
    [
        (["hunter22"], [b"it is hunter22!"], b"it is ***!"),
        (["hunter22"], [b"it is hun", b"ter", b"22!"], b"it is ***!"),
        (["hunter22"], [b"hunt"], b"hunt"),
        (["hunter22"], [b"hunhunter22"], b"hun***"),
        (["abcd", "abcdef"], [b"abcd", b"ef abcd ", b"abcd"], b"*** *** ***"),
        (["abab"], [b"aba", b"bab"], b"***ab"),
        (["bcde", "abcd"], [b"abc", b"de"], b"***e"),
        (["abc"], [b"abc"], b"abc"),
        (["", "é€é€"], ["é€".encode()[:3], "é€".encode()[3:] + "é€".encode()], b"***"),
        (["line 1\nline 2\n"], [b"line 1\nline", b" 2\n."], b"***."),
    ],
)
def test_values_are_masked_over_chunk_borders(values: list[str], chunks: list[bytes], shown: bytes) -> None:
    assert _through(values, *chunks) == shown


def test_what_begins_no_value_is_shown_at_once() -> None:
    mask = Mask(["hunter22"])
    assert mask.feed(b"progress 10 %\r") == b"progress 10 %\r"
    assert mask.feed(b"the h") == b"the "
    assert mask.feed(b"at") == b"hat"


@given(
    values=st.lists(st.text("ab", min_size=4, max_size=7), min_size=1, max_size=3),
    data=st.text("ab", max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=6),
)
def test_chunks_make_no_difference(values: list[str], data: str, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [data[start:end].encode() for start, end in itertools.pairwise(edges)]
    whole = re.sub("|".join(sorted(values, key=len, reverse=True)), "***", data)
    assert _through(values, *chunks).decode() == whole


def test_a_revealed_value_is_taken_as_it_is_and_does_not_show() -> None:
    env = {"A": "secret:KEY", "B": "plain", "C": "secret:other"}
    assert names(env) == {"KEY", "other"}
    filled = fill(env, {"KEY": "secret:not-a-name"})
    assert values_of(filled) == ["secret:not-a-name"]
    assert "not-a-name" not in repr(filled)
    assert names(filled) == {"other"}
    assert reveal(filled, {"FLEETFLOW_SECRET_other": "found"}) == {"A": "secret:not-a-name", "B": "plain", "C": "found"}
    assert type(reveal(filled, {"FLEETFLOW_SECRET_other": "found"})["A"]) is str
    assert isinstance(filled["A"], Revealed)

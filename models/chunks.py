"""Cuts what a statement's IN takes into numbers that come again: each number is a statement of its own, which the driver keeps prepared."""

from collections.abc import Iterable, Iterator
from itertools import islice

_VARIABLES = 16_384  # of one statement


def chunks(keys: Iterable[str]) -> Iterator[list[str]]:
    """In numbers of 1, 2, 4, 8 ..., filled up with the last one."""
    left = iter(keys)
    while some := list(islice(left, _VARIABLES)):
        yield some + some[-1:] * ((1 << (len(some) - 1).bit_length()) - len(some))

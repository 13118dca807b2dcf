"""Ctrl-C and its like, taken as a wish the first time, and as an order the second."""

import signal
from types import FrameType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """While this is open the first SIGINT, SIGTERM or SIGHUP only sets `asked`, wherever it falls; the next raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.asked = 0  # the signal's number

    @property
    def exit_code(self) -> int:
        return 128 + self.asked

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = number

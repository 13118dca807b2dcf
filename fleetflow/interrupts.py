"""Ctrl-C, taken as a wish the first time, and as an order the second."""

import signal
from types import FrameType
from typing import Self


class Interrupts:
    """While this is open the first SIGINT only sets `asked`, wherever it falls; the next one raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

"""The tags of a flow run, by which whoever starts it tells the flow what is no parameter."""

from collections.abc import Iterable
from enum import StrEnum


class Tag(StrEnum):
    """What a tag tells; each stands before its value."""

    RETRY_OF = "fleetflow-retry-of:"  # the number of the task whose hosts run again
    TASK = "fleetflow-task:"  # the number of the task that the REST API has opened for this run
    BY = "fleetflow-by:"  # who wants it, as the command line says

    def of(self, value: object) -> str:
        """The tag with this value."""
        return f"{self.value}{value}"

    def read(self, tags: Iterable[str]) -> str | None:
        """The value that tags tell."""
        return next((tag.removeprefix(self.value) for tag in tags if tag.startswith(self.value)), None)

    def number(self, tags: Iterable[str]) -> int | None:
        """The number that tags tell."""
        values = (tag.removeprefix(self.value) for tag in tags if tag.startswith(self.value))
        return next((int(value) for value in values if value.isascii() and value.isdecimal()), None)

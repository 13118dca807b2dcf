"""The kinds of files that `host import` reads."""

from enum import StrEnum


class Format(StrEnum):
    """What a file is."""

    GUESS = "guess"
    SSH = "ssh"
    HOSTS = "hosts"
    ANSIBLE = "ansible"
    LIST = "list"

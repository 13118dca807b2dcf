"""What is refused before anything is sent: who to become, umask, arguments."""

import pytest

from models import commands
from models.errors import UsageError
from models.values import Command


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ({"umask": "8"}, "umask"),
        ({"umask": "27"}, "umask"),
        ({"umask": "1777"}, "umask"),
        ({"umask": "0o27"}, "umask"),
        ({"become": "-x"}, "become_user"),
        ({"become": ""}, "become_user"),
        ({"become": "a\nb"}, "become_user"),
        ({"become_password": "secret:A"}, "but not become"),
        ({"become": "root", "become_password": "hunter2"}, "secret:NAME"),
        ({"become": "root", "become_password": "secret:"}, "secret:NAME"),
        ({"arguments": ("a",)}, "for a script"),
        ({"interpreter": ("/bin/sh",), "arguments": ("a", "b\0")}, "argument 2"),
        ({"interpreter": ("/bin/sh",), "arguments": ("\udcff",)}, "UTF-8"),
        ({"interpreter": ("/bin/sh",), "arguments": ("x" * 131_072,)}, "128 KiB"),
        ({"interpreter": ("/bin/sh",), "script": " \n"}, "the script is empty"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(command: dict[str, object], word: str) -> None:
    with pytest.raises(UsageError, match=word) as caught:
        commands.check(Command(**({"script": "true"} | command)))
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("command", [{"umask": "027"}, {"umask": "0027"}, {"become": "#1000", "become_password": "secret:A-b.c"}])
def test_what_can_be_run(command: dict[str, object]) -> None:
    commands.check(Command(script="true", **command))


def test_a_user_without_become_is_refused() -> None:
    assert commands.become(True, "", "secret:A") == ("root", "secret:A")
    assert commands.become(False, "root", "") == (None, None)
    with pytest.raises(UsageError, match="but not become"):
        commands.become(False, "postgres", "")


def test_a_command_or_a_script() -> None:
    assert (commands.either("a", ""), commands.either("", "b")) == ("a", "b")
    with pytest.raises(UsageError, match="either a command or a script"):
        commands.either("a", "b")

"""The dialogue with sudo without a sudo: when the password goes out, and what is made of what comes back."""

import re

import pytest

from executors.become import Sudo
from models.errors import UsageError

_PAYLOAD = b"the payload"


def _sudo(answer: str | None = "pass word") -> tuple[Sudo, bytes]:
    sudo = Sudo("deploy", answer, _PAYLOAD)
    return sudo, re.search(rb"fleetflow-[0-9a-f]{32}", sudo.opening)[0]


def _say(sudo: Sudo, data: bytes) -> list[bytes]:
    """Feed data byte by byte; what was replied, and at the end what came through."""
    replies, through = [], b""
    for byte in data:
        through += sudo.feed(bytes([byte]))
        replies.append(sudo.reply())
    return [reply for reply in replies if reply] + ([through] if through else [])


def test_the_password_goes_out_at_the_prompt_and_the_payload_at_the_entry() -> None:
    sudo, word = _sudo()
    assert b"pass word" not in sudo.opening
    assert _PAYLOAD not in sudo.opening
    assert _say(sudo, b"motd\npassword:\n" + word + b" called\nA lecture.\n") == []
    assert _say(sudo, word + b" password:") == [b"pass word\n"]
    assert not sudo.has_entered
    reply, through = _say(sudo, b"\n" + word + b" entered\nbehind it")
    assert reply.endswith(_PAYLOAD)
    assert (through, sudo.has_entered, sudo.refusal, sudo.why_ended) == (b"behind it", True, None, None)
    assert _say(sudo, word + b" password:") == [word + b" password:"], "what the command prints is its output"


def test_no_prompt_no_password() -> None:
    sudo, word = _sudo()
    (reply,) = _say(sudo, word + b" called\n" + word + b" entered\n")
    assert b"pass word" not in reply


def test_without_a_password_everything_is_sent_at_once_and_a_prompt_gets_nothing() -> None:
    sudo, word = _sudo(None)
    assert sudo.opening.endswith(_PAYLOAD)
    assert _say(sudo, word + b" called\n" + word + b" password:" + word + b" entered\n") == []
    assert sudo.has_entered


def test_a_second_prompt_is_a_refusal_and_gets_no_answer() -> None:
    sudo, word = _sudo()
    prompt = word + b" password:"
    assert _say(sudo, word + b" called\n" + prompt + b"\nSorry, try again.\n" + prompt) == [b"pass word\n"]
    assert sudo.refusal == "sudo refuses: the password is wrong (it asked again)"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"sudo: unknown user x\nsudo: error initializing audit plugin\n", "unknown user x"),
        (b"A lecture.\n\nsudo: no\n", "no"),
        (b"Sorry, user a may not.\n", "Sorry, user a may not."),
        (b"sudo: you said pass word!\n", "you said ***!"),
        (b"", "it said nothing"),
        (b"x" * 100_000, "x" * 300),
    ],
)
def test_one_line_says_why_it_ended(said: bytes, why: str) -> None:
    sudo, word = _sudo()
    _say(sudo, b"sudo: not this\n" + word + b" called\n")
    for start in range(0, len(said), 1000):
        sudo.feed(said[start : start + 1000])
    assert sudo.why_ended == f"sudo refuses: {why}"


def test_an_end_before_sudo_was_called_is_not_its_doing() -> None:
    sudo, _ = _sudo()
    sudo.feed(b"This account is not available.\n")
    assert sudo.why_ended is None


@pytest.mark.parametrize("password", ["a\nb", "a\0b", "a\r"])
def test_a_password_that_sudo_cannot_read_is_refused_and_not_shown(password: str) -> None:
    with pytest.raises(UsageError, match="line break") as caught:
        _sudo(password)
    assert password not in str(caught.value)

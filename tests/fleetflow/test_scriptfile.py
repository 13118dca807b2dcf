"""What `fleetflow run` takes as its command, or as its script file."""

from pathlib import Path

import pytest

from fleetflow import scriptfile
from models.errors import UsageError


def test_a_command_is_one_word_and_a_script_has_arguments(tmp_path: Path) -> None:
    script = tmp_path / "a.sh"
    script.write_text("echo é\r\n", newline="")
    assert scriptfile.read_words(["uptime -p"], None, is_stdin_taken=True) == ("uptime -p", ())
    assert scriptfile.read_words(["a b", "", "-x"], str(script), is_stdin_taken=True) == ("echo é\r\n", ("a b", "", "-x"))
    assert (scriptfile.name(str(script)), scriptfile.name("-"), scriptfile.name(None)) == ("a.sh", None, None)


@pytest.mark.parametrize(
    ("words", "script", "why"),
    [
        ([], None, "give a command"),
        (["rm", "-rf"], None, "in quotes"),
        ([], "/no/such/script", "No such file"),
        ([], "/", "Is a directory"),
        ([], "/bin/sh", "not UTF-8"),
        ([], "-", "both read"),
    ],
)
def test_what_is_refused_in_one_line(words: list[str], script: str | None, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        scriptfile.read_words(words, script, is_stdin_taken=True)
    assert "\n" not in str(caught.value)


def test_a_script_that_prefect_would_not_take(tmp_path: Path) -> None:
    script = tmp_path / "big"
    script.write_text("#" * 600_000)
    with pytest.raises(UsageError, match="600000 bytes; a task carries at most"):
        scriptfile.read_words([], str(script), is_stdin_taken=False)
    with pytest.raises(UsageError, match="bring larger files"):
        scriptfile.check_size({"script": "#" * 300_000, "stdin": "x" * 300_000})

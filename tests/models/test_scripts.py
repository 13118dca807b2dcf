"""Who reads a script, by its first line."""

import pytest

from models.errors import UsageError
from models.scripts import interpreter


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("echo a", ("/bin/sh",)),
        ("", ("/bin/sh",)),
        ("\n#!/bin/bash", ("/bin/sh",)),
        ("#!/bin/bash", ("/bin/bash",)),
        ("#!/bin/bash -e\n", ("/bin/bash", "-e")),
        ("#! \t/bin/bash\t -e -u \nx", ("/bin/bash", "-e -u")),
        ("#!/usr/bin/env python3\nprint()", ("/usr/bin/env", "python3")),
        ("#!/usr/bin/env -S python3 -u\n", ("/usr/bin/env", "-S python3 -u")),
        ("#!/bin/sh \n", ("/bin/sh",)),
    ],
)
def test_the_line_is_read_as_linux_reads_it(text: str, words: tuple[str, ...]) -> None:
    assert interpreter(text) == words


def test_a_chosen_interpreter_wins() -> None:
    for chosen in ("/usr/bin/env python3", "#!/usr/bin/env python3", " /usr/bin/env python3 "):
        assert interpreter("#!/bin/sh\r\n", chosen) == ("/usr/bin/env", "python3")
    for wrong in ("python3", "/bin/sh\n/bin/sh", "\0"):
        with pytest.raises(UsageError, match="interpreter "):
            interpreter("", wrong)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("#!/bin/sh\r\necho a\r\n", "dos2unix"),
        ("#!/bin/bash -e\r\n", "dos2unix"),
        ("#!python3\n", "full path"),
        ("#!\necho", "full path"),
        ("\ufeff#!/bin/sh\n", "byte order mark"),
    ],
)
def test_a_line_that_no_system_follows(text: str, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        interpreter(text)

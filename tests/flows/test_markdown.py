"""Commands are shown as they are where Markdown is expected."""

import re
import string

from flows.markdown import literal


def test_every_sign_that_markdown_could_take_for_its_own_is_escaped_and_nothing_else() -> None:
    text = f"rm -rf *_old_* <b> [x](y) é {string.punctuation}"
    assert re.sub(r"\\(.)", r"\1", literal(text)) == text
    assert re.findall(r"(?<!\\)(?:\\\\)*[!-/:-@\[^-`{-~]", re.sub(r"\\.", "", literal(text))) == []
    assert literal("uname on web") == "uname on web"

import os
from pathlib import Path

import pytest

from models.errors import SettingsError
from models.sshconfig import Block, literal_names, parse, read, split, walk


@pytest.fixture
def ssh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """~/.ssh of a home of our own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".ssh"
    folder.mkdir(mode=0o700)
    return folder


def shape(blocks: "list[Block] | tuple[Block, ...]") -> list[object]:
    """Heads and lines as nested lists, included files as lists in lists."""
    return [
        (
            block.head.args if block.head else None,
            [shape(item) if isinstance(item, tuple) else (item.keyword, *item.args) for item in block.items],
        )
        for block in blocks
        if block.head or block.items
    ]


@pytest.mark.parametrize(
    ("text", "args"),
    [
        ("a b", ("a", "b")),
        ("a\tb", ("a", "b")),
        ('"a b" c', ("a b", "c")),
        ("'a b'c", ("a bc",)),
        (r"a\ b", ("a b",)),
        (r'"a\"b"', ('a"b',)),
        (r'"a\ b"', (r"a\ b",)),
        (r"C:\new", (r"C:\new",)),
        (r"a\\b", (r"a\b",)),
        ("a #b", ("a",)),
        ("a#b", ("a#b",)),
        ('"#a"', ("#a",)),
        ('"" b', ("", "b")),
        ("", ()),
    ],
)
def test_a_value_is_cut_into_arguments(text: str, args: tuple[str, ...]) -> None:
    assert split(text) == args


@pytest.mark.parametrize("text", ['"a', "'a", r'"a\"', "a'b"])
def test_a_quote_that_does_not_end_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="quote"):
        split(text)


@pytest.mark.parametrize(
    "line",
    [
        "Port 22",
        "port=22",
        "PORT = 22",
        "\t Port =22 ",
        '"Port" 22',
        '"Port"22',
        '"#" x\nPort 22',
        "Port 22 # why",
        "Port 22\r",
        "Port 22\f",
    ],
)
def test_keywords_and_values_come_in_every_form(ssh_folder: Path, line: str) -> None:
    (ssh_folder / "config").write_bytes(line.encode() + b"\n")
    assert shape(parse(ssh_folder / "config")) == [(None, [("port", "22")])]


def test_lines_stand_in_the_block_of_the_head_above_them(ssh_folder: Path) -> None:
    (ssh_folder / "config").write_text("User a\n\n# Host x\nHost b c\n  User d\nMatch user e\n  User f\n")
    assert shape(parse(Path("~/.ssh/config"))) == [
        (None, [("user", "a")]),
        (("b", "c"), [("user", "d")]),
        (("user", "e"), [("user", "f")]),
    ]


def test_a_line_knows_its_file_and_its_number(ssh_folder: Path) -> None:
    (ssh_folder / "config").write_text("Host a\nInclude more\n")
    (ssh_folder / "more").write_text("\n\nUser b\n")
    places = [
        (item.path.name, item.number) for block in walk(parse(ssh_folder / "config")) for item in block.items if not isinstance(item, tuple)
    ]
    assert places == [("more", 3)]


def test_includes_stand_where_they_are_written_sorted_by_name(ssh_folder: Path) -> None:
    (ssh_folder / "conf.d").mkdir()
    for name in ("30", "10", "50", "20", "40", ".hidden"):
        (ssh_folder / "conf.d" / name).write_text(f"Host h{name}\n")
    (ssh_folder / "conf.d" / "a-folder").mkdir()
    (ssh_folder / "config").write_text("Host a\n  Include conf.d/*\n  User b\n")
    assert shape(parse(ssh_folder / "config")) == [
        (("a",), [*([((f"h{number}",), [])] for number in (10, 20, 30, 40, 50)), [], ("user", "b")])
    ]


@pytest.mark.parametrize("spelled", ["more", "~/.ssh/more", "FOLDER/more", '"mo""re"', "missing more", "${WHICH}"])
def test_an_include_is_found(ssh_folder: Path, monkeypatch: pytest.MonkeyPatch, spelled: str) -> None:
    monkeypatch.setenv("WHICH", "more")
    (ssh_folder / "config").write_text("Include " + spelled.replace("FOLDER", str(ssh_folder)))
    (ssh_folder / "more").write_text("User b\n")
    assert shape(parse(ssh_folder / "config")) == [(None, [[(None, [("user", "b")])]])]


def test_an_include_of_a_user_file_elsewhere_still_looks_in_the_ssh_folder(ssh_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("Include more\n")
    (ssh_folder / "more").write_text("Host b\n")
    assert literal_names(tmp_path / "other") == {"b"}


def test_an_include_of_a_system_file_looks_in_its_own_folder(ssh_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "ssh_config").write_text("Include more\n")
    (tmp_path / "more").write_text("User b\n")
    assert len(list(walk(read(tmp_path / "ssh_config", system=True).blocks))) == 2
    (tmp_path / "ssh_config").write_text("Include ~/more\n")
    with pytest.raises(SettingsError, match="system-wide"):
        read(tmp_path / "ssh_config", system=True)


def test_names_are_those_without_wildcard_or_negation_with_includes_followed(ssh_folder: Path) -> None:
    (ssh_folder / "config").write_text("Host web1 web* !web9 'db 1'\nHost ?x\nMatch host m1\n  Include more\n")
    (ssh_folder / "more").write_text("Host deep\n")
    assert literal_names(Path("~/.ssh/config")) == {"web1", "db 1", "deep"}


def test_a_missing_default_file_is_empty_and_another_one_is_an_error(ssh_folder: Path, tmp_path: Path) -> None:
    assert literal_names(ssh_folder / "config") == frozenset()
    assert parse(Path("none")) == []
    with pytest.raises(SettingsError, match="no such file"):
        parse(tmp_path / "other")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("User a\nPort\n", 2),
        ("HosName 10.0.0.1\n", 1),
        ("\nUser 'a\n", 2),
        ('Host ""\n', 1),
        ('Host"a"\n', 1),
        ('"Host a\n', 1),
        ("= a\n", 1),
        ("Include ${NOT_THERE_AT_ALL}\n", 1),
    ],
)
def test_a_wrong_line_is_named_by_file_and_number(ssh_folder: Path, text: str, number: int) -> None:
    (ssh_folder / "config").write_text(text)
    with pytest.raises(SettingsError) as caught:
        parse(ssh_folder / "config")
    assert caught.value.source == f"{ssh_folder / 'config'}:{number}"


def test_unknown_words_may_be_ignored_by_name(ssh_folder: Path) -> None:
    (ssh_folder / "config").write_text("IgnoreUnknown !SpecialB,Special*\nSpecialA x\n")
    parse(ssh_folder / "config")
    (ssh_folder / "config").write_text("IgnoreUnknown !SpecialB,Special*\nSpecialB x\n")
    with pytest.raises(SettingsError, match="specialb"):
        parse(ssh_folder / "config")


def test_includes_in_a_circle_end_in_an_error(ssh_folder: Path) -> None:
    (ssh_folder / "config").write_text("Include config\n")
    with pytest.raises(SettingsError, match="deeper than 16"):
        parse(ssh_folder / "config")


def test_sixteen_levels_of_includes_are_read(ssh_folder: Path) -> None:
    for level in range(16):
        (ssh_folder / f"level{level}").write_text(f"Include level{level + 1}\n")
    (ssh_folder / "level16").write_text("Host deep\n")
    assert literal_names(ssh_folder / "level0") == {"deep"}


def test_a_file_that_others_may_write_is_refused(ssh_folder: Path, tmp_path: Path) -> None:
    for path in (ssh_folder / "config", ssh_folder / "more", tmp_path / "named"):
        path.write_text("User a\n")
    (ssh_folder / "config").chmod(0o666)
    with pytest.raises(SettingsError, match="others may write it"):
        parse(ssh_folder / "config")
    (tmp_path / "named").chmod(0o666)
    assert parse(tmp_path / "named")  # as with ssh -F
    (tmp_path / "named").write_text("Include more\n")
    (ssh_folder / "more").chmod(0o602)
    with pytest.raises(SettingsError, match="more"):
        parse(tmp_path / "named")


def test_a_change_of_any_file_is_seen(ssh_folder: Path) -> None:
    (ssh_folder / "d").mkdir()
    (ssh_folder / "config").write_text("Include d/*.conf\n")
    (ssh_folder / "d" / "a.conf").write_text("User a\n")
    source = read(ssh_folder / "config")
    assert not source.has_changed()
    (ssh_folder / "d" / "b.conf").write_text("Host b\n")
    assert source.has_changed()
    source = read(ssh_folder / "config")
    (ssh_folder / "d" / "a.conf").write_text("User abc\n")
    assert source.has_changed()


def test_bytes_that_are_no_text_do_no_harm(ssh_folder: Path) -> None:
    (ssh_folder / "config").write_bytes(b"# \xff\xfe\x85\nUser \xe9\nHost caf\xc3\xa9\n")
    assert literal_names(ssh_folder / "config") == {"café"}
    assert os.fsencode(parse(ssh_folder / "config")[0].items[0].args[0]) == b"\xe9"  # type: ignore[union-attr] # a line, no include

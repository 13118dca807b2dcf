"""hosts.yaml and hosts.d: what counts for a host, and how a wrong file is refused with file and line."""

import time
from pathlib import Path

import pytest

from models import hostsfile
from models.errors import InventoryError, NotFoundError, SettingsError
from models.inventory import Inventory
from models.values import ExecutorKind, Host, HostKeyPolicy

DOCS = Path(__file__).parents[2] / "docs"


def load(home: Path, text: str, **others: str) -> Inventory:
    """An inventory of hosts.yaml and of files in hosts.d."""
    (home / "hosts.yaml").write_text(text)
    (home / "hosts.d").mkdir(exist_ok=True)
    for name, content in others.items():
        (home / "hosts.d" / f"{name}.yaml").write_text(content)
    return Inventory.load(home)


def test_without_files_only_localhost_is_known(tmp_path: Path) -> None:
    inventory = Inventory.load(tmp_path / "nowhere")
    assert dict(inventory.hosts) == {}
    assert inventory.find("localhost") == Host(name="localhost", executor=ExecutorKind.LOCAL)
    with pytest.raises(NotFoundError):
        inventory.find("web1")


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "hosts:\n", "hosts: {}\ngroups: {}\ndefaults:\n"])
def test_an_empty_file_holds_no_hosts(tmp_path: Path, text: str) -> None:
    assert dict(load(tmp_path, text).hosts) == {}


def test_all_that_can_be_said_of_a_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    inventory = load(
        tmp_path,
        """
hosts:
  web[01-02]:
    address: "{name}.example.com"
    user: deploy
    port: 2222
    executor: ssh
    jump: me@bastion:22,second
    identity: ~/.ssh/id_fleet
    host_key: off
    groups: [web, prod]
    tags: {dc: ams, rack: 07, on: yes, version: 1.10}
""",
    )
    assert inventory.find("web02") == Host(
        name="web02",
        address="web02.example.com",
        user="deploy",
        port=2222,
        executor=ExecutorKind.SSH,
        jump="me@bastion:22,second",
        identity=Path("/home/somebody/.ssh/id_fleet"),
        host_key=HostKeyPolicy.OFF,
        groups=frozenset({"web", "prod"}),
        tags={"dc": "ams", "rack": "07", "on": "yes", "version": "1.10"},
    )
    assert inventory.groups == {"web": {"web01", "web02"}, "prod": {"web01", "web02"}}
    assert inventory.tags["rack"] == {"07": {"web01", "web02"}}


def test_groups_and_lists_may_be_spelled_as_text(tmp_path: Path) -> None:
    inventory = load(tmp_path, "hosts:\n  web1, web[3-4]: {groups: 'web, prod'}\ngroups:\n  db: {hosts: 'db[1-2,7],old'}\n")
    assert inventory.groups["prod"] == {"web1", "web3", "web4"}
    assert inventory.groups["db"] == {"db1", "db2", "db7", "old"}


def test_host_wins_over_group_and_group_over_defaults(tmp_path: Path) -> None:
    inventory = load(
        tmp_path,
        """
hosts:
  a: {user: from-host, groups: [g], tags: {t1: host}}
  b: {groups: [g]}
  c:
groups:
  g: {user: from-group, port: 2, tags: {t1: group, t2: group}}
defaults: {user: from-defaults, port: 1, jump: j, tags: {t1: d, t2: d, t3: d}}
""",
    )
    a, b, c = (inventory.find(name) for name in "abc")
    assert (a.user, a.port, a.jump, dict(a.tags)) == ("from-host", 2, "j", {"t1": "host", "t2": "group", "t3": "d"})
    assert (b.user, b.port, b.jump, dict(b.tags)) == ("from-group", 2, "j", {"t1": "group", "t2": "group", "t3": "d"})
    assert (c.user, c.port, c.jump, dict(c.tags)) == ("from-defaults", 1, "j", {"t1": "d", "t2": "d", "t3": "d"})


CLASH = """
groups:
  one: {{hosts: web1, {0}}}
  two: {{hosts: web1, {1}}}
hosts:
  web1: {{{2}}}
"""


@pytest.mark.parametrize(("one", "two"), [("user: a", "user: b"), ("port: 1", "port: 2"), ("tags: {t: a}", "tags: {t: b}")])
def test_groups_that_disagree_are_an_error_unless_the_host_decides(tmp_path: Path, one: str, two: str) -> None:
    with pytest.raises(InventoryError, match="'one' and 'two' disagree on") as caught:
        load(tmp_path, CLASH.format(one, two, ""))
    assert caught.value.line == 4
    load(tmp_path, CLASH.format(one, two, two))
    load(tmp_path, CLASH.format(one, one, ""))


def test_localhost_stays_local_unless_host_or_group_say_otherwise(tmp_path: Path) -> None:
    def executor(text: str) -> ExecutorKind | None:
        return load(tmp_path, text).find("localhost").executor

    assert executor("defaults: {executor: ssh}") is ExecutorKind.LOCAL
    assert executor("hosts: {localhost: {user: me}}\ndefaults: {executor: ssh}") is ExecutorKind.LOCAL
    assert executor("hosts: {localhost: {executor: ssh}}") is ExecutorKind.SSH
    assert executor("groups: {all-ssh: {hosts: localhost, executor: ssh}}") is ExecutorKind.SSH


def test_a_jump_host_of_the_inventory_is_spelled_by_its_address(tmp_path: Path) -> None:
    inventory = load(
        tmp_path,
        """
hosts:
  outer: {address: 203.0.113.1, jump: none}
  inner: {address: "2001:db8::1", user: hop, port: 2222, jump: outer}
  web1: {jump: inner}
  web2: {jump: "inner,elsewhere"}
  web3: {jump: me@inner}
defaults: {jump: outer}
""",
    )
    assert inventory.find("web1").jump == "203.0.113.1,hop@[2001:db8::1]:2222"
    assert inventory.find("web2").jump == "203.0.113.1,hop@[2001:db8::1]:2222,elsewhere"
    assert inventory.find("web3").jump == "me@inner"
    assert inventory.find("outer").jump == "none"
    assert inventory.spell_jump("inner,elsewhere") == inventory.find("web2").jump, "whoever names it"


def test_defaults_may_name_a_jump_host_that_stands_in_the_inventory(tmp_path: Path) -> None:
    inventory = load(tmp_path, "defaults: {jump: bastion}\nhosts: {bastion: {address: 203.0.113.1}, web1: }\n")
    assert (inventory.find("bastion").jump, inventory.find("web1").jump) == (None, "203.0.113.1")


def test_jump_hosts_in_a_circle_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match="circle: ") as caught:
        load(tmp_path, "hosts:\n  a: {jump: b}\n  b: {jump: c}\n  c: {jump: b}\n")
    assert caught.value.line in {3, 4}


def test_files_of_hosts_d_add_up_in_the_order_of_their_names(tmp_path: Path) -> None:
    inventory = load(tmp_path, "groups: {web: {user: deploy}}", b="hosts: {web2: {groups: web}}", a="hosts: {web1: {groups: web}}")
    assert list(inventory.hosts) == ["web1", "web2"]
    assert inventory.find("web2").user == "deploy"
    (place,) = inventory.places["web2"]
    assert str(place) == f"{tmp_path / 'hosts.d' / 'b.yaml'}:1"


def test_other_files_in_hosts_d_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "hosts.d").mkdir()
    for name in (".half.yaml", "notes.txt", "old.yaml~"):
        (tmp_path / "hosts.d" / name).write_text("[")
    assert dict(Inventory.load(tmp_path).hosts) == {}


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        ("hosts:\n  web1:\n", "hosts:\n  web1:\n", "host 'web1'"),
        ("hosts:\n  web[01-20]:\n", "hosts:\n  web07:\n", "host 'web07'"),
        ("groups:\n  web:\n", "groups:\n  web:\n", "group 'web'"),
        ("#\ndefaults: {}\n", "#\ndefaults: {}\n", "defaults"),
    ],
)
def test_what_stands_in_two_files_is_an_error_naming_both_places(tmp_path: Path, first: str, second: str, what: str) -> None:
    with pytest.raises(InventoryError) as caught:
        load(tmp_path, first, more=second)
    message = str(caught.value)
    assert what in message
    assert f"{tmp_path / 'hosts.yaml'}:2" in message
    assert f"{tmp_path / 'hosts.d' / 'more.yaml'}:2" in message


def test_overlapping_ranges_in_one_file_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match=r"'web05' stands here and at .*hosts.yaml:2") as caught:
        load(tmp_path, "hosts:\n  web[01-20]:\n  web05: {user: me}\n")
    assert caught.value.line == 3


WRONG = [
    ("hosts:\n  web1: [1\n", 3, "not YAML"),
    ("hosts:\n  web1:\n\tuser: x\n", 3, "not YAML"),
    ("hosts:\n  a: b\n   c: d\n", 3, "not YAML"),
    ("hosts:\n  web1: 'x\n", 3, "not YAML"),
    ("hosts:\n  web1: \x01\n", 2, "not YAML"),
    ("hosts:\n  web1:\n  web1:\n", 3, "'web1' stands here and in line 2"),
    ("hosts:\n  web1:\n    user: a\n    user: b\n", 4, "'user' stands here and in line 3"),
    ("hosts: {}\n---\nhosts: {}\n", 2, "second document"),
    ("- web1\n", 1, "must be a mapping"),
    ("just text\n", 1, "must be a mapping"),
    ("hosts:\n  web1:\nhost:\n  web2:\n", 3, "there is no such key; known are hosts, groups, defaults"),
    ("hosts:\n  web1:\n    usr: me\n", 3, "there is no such key; known are address, user"),
    ("groups:\n  g:\n    host: web1\n", 3, "there is no such key; known are"),
    ("defaults:\n  groups: [x]\n", 2, "there is no such key"),
    ("hosts:\n  web1:\n    port: 99999\n", 3, "65535"),
    ("hosts:\n  web1:\n    port: ssh\n", 3, "integer"),
    ("hosts:\n  web1:\n    user: -oProxyCommand=x\n", 3, "not a user name"),
    ("hosts:\n  web1:\n    user: a b\n", 3, "not a user name"),
    ("hosts:\n  web1:\n    address: -x\n", 3, "not an address"),
    ("hosts:\n  web1:\n    address: fe80::1%;id\n", 3, "not an address"),
    ("hosts:\n  web1:\n    address: '{host}.x'\n", 3, "may hold {name}"),
    ("hosts:\n  web1:\n    address: {name}\n", 3, "string"),
    ("hosts:\n  web1:\n    executor: telnet\n", 3, "'ssh', 'local' or 'agent'"),
    ("hosts:\n  web1:\n    host_key: maybe\n", 3, "'strict', 'accept-new' or 'off'"),
    ("hosts:\n  web1:\n    jump: -x\n", 3, "is not \\[user@\\]host"),
    ("hosts:\n  web1:\n    jump: a;b\n", 3, "is not \\[user@\\]host"),
    ("hosts:\n  web1:\n    identity: ~nobody-here/x\n", 3, "no home folder"),
    ('hosts:\n  web1:\n    identity: "a\\eb"\n', 3, "not the name of a file"),
    ("hosts:\n  web1:\n    groups:\n    - ok\n    - not ok\n", 5, "not a group name"),
    ("hosts:\n  web1:\n    groups: all\n", 3, "no group"),
    ("groups:\n  all:\n", 2, "no group"),
    ("hosts:\n  web1:\n    tags:\n      dc: a,b\n", 4, "not a tag value"),
    ("hosts:\n  web1:\n    tags:\n      d c: a\n", 4, "not a tag name"),
    ("hosts:\n  web1:\n    tags:\n      dc:\n", 4, "string"),
    ("hosts:\n  web1: yes\n", 2, "dictionary"),
    ("hosts:\n  web[1-:\n", 2, "does not end"),
    ("hosts:\n  web[9-1]:\n", 2, "backwards"),
    ("hosts:\n  web[1-999999999]:\n", 2, "more than 100,000"),
    ("hosts:\n  a[1-60000]:\n  b[1-60000]:\n", 3, "more than 100,000"),
    ("hosts:\n  root@web1:\n", 2, "not a host name"),
    ("hosts:\n  -x:\n", 2, "not a host name"),
    ("hosts:\n  'a\\b':\n", 2, "not a host name"),
    ('hosts:\n  "web\\e[1m":\n', 2, "never|end|range"),
    ("hosts:\n  web1,,web2:\n", 2, "not a host name"),
    ("hosts:\n  ? [a, b]\n  : x\n", 2, "a key is a word"),
    ("hosts:\n  {name}: x\n", 2, "a key is a word"),
    ("groups:\n  g:\n    hosts:\n    - web1\n    - web[2-1]\n", 5, "backwards"),
    ("hosts:\n  web1: !!python/object/apply:os.system [id]\n", 2, "means nothing here"),
    ("hosts:\n  web1: !vault x\n", 2, "means nothing here"),
    ("hosts:\n  web1: *nobody\n", 2, "named &nobody"),
    ("hosts: &x\n  web1: *x\n", 2, "named &x"),
    ("hosts: " + "[" * 100_000, 1, "nested too deeply"),
    ("hosts:\n" + "- " * 100_000, 2, "nested too deeply"),
]


@pytest.mark.parametrize(("text", "line", "reason"), WRONG, ids=lambda value: repr(value)[:40])
def test_a_wrong_file_is_refused_with_file_line_and_reason(tmp_path: Path, text: str, line: int, reason: str) -> None:
    with pytest.raises(InventoryError, match=reason) as caught:
        load(tmp_path, text)
    assert (caught.value.path, caught.value.line) == (tmp_path / "hosts.yaml", line)
    assert str(caught.value).isprintable()


def test_a_file_that_is_not_text_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "hosts.yaml").write_bytes(b"hosts:\n  web1:\n    user: \xff\n")
    with pytest.raises(InventoryError, match="UTF-8") as caught:
        Inventory.load(tmp_path)
    assert caught.value.line == 3


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hosts.yaml").mkdir()
    with pytest.raises(InventoryError, match="directory"):
        Inventory.load(tmp_path)


def test_aliases_are_read_and_bombs_of_them_are_not(tmp_path: Path) -> None:
    inventory = load(tmp_path, "hosts:\n  a: &how {user: me, tags: {x: y}}\n  b: *how\n")
    assert inventory.find("b").user == "me"
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 10))
    began = time.process_time()
    with pytest.raises(InventoryError, match="values") as caught:
        load(tmp_path, bomb)
    assert caught.value.line == 7
    assert time.process_time() - began < 5


def test_literal_names_of_the_ssh_config_are_known_and_in_no_group(tmp_path: Path) -> None:
    config = tmp_path / "ssh_config"
    config.write_text("Host bastion web?\n  User x\nHost *.corp !no\n")
    inventory = Inventory.load(tmp_path, config)
    assert inventory.find("bastion") == Host(name="bastion")
    for name in ("web?", "web1", "no", "a.corp"):
        with pytest.raises(NotFoundError):
            inventory.find(name)
    assert [host.name for host in inventory.known()] == ["bastion", "localhost"]


def test_the_inventory_wins_over_the_ssh_config_and_spares_reading_it(tmp_path: Path) -> None:
    load(tmp_path, "hosts: {bastion: {user: me}}")
    inventory = Inventory.load(tmp_path, tmp_path / "missing")
    assert inventory.find("bastion").user == "me"
    with pytest.raises(SettingsError, match="no such file"):
        inventory.find("other")


def test_ten_thousand_hosts_load_quickly(tmp_path: Path) -> None:
    entry = "  web{0:05}: {{address: 10.0.1.1, user: deploy, port: 22, groups: [web, prod], tags: {{dc: ams}}}}\n"
    (tmp_path / "hosts.yaml").write_text("hosts:\n" + "".join(entry.format(number) for number in range(10_000)))
    began = time.process_time()
    inventory = Inventory.load(tmp_path)
    assert len(inventory.groups["web"]) == 10_000
    assert time.process_time() - began < 5


def test_the_example_in_the_docs_is_right(tmp_path: Path) -> None:
    example = (DOCS / "inventory.md").read_text().split("```yaml\n")[1].split("```")[0]
    inventory = load(tmp_path, example)
    assert inventory.find("web07").jump == "jump@203.0.113.7"
    assert inventory.groups["db"] == {"db1", "db2", "db3"}


def test_the_schema_in_the_docs_is_that_of_the_code() -> None:
    assert (DOCS / "hosts.schema.json").read_text() == hostsfile.schema(), (
        "write it again: python -c 'from models.hostsfile import schema; print(schema(), end=\"\")' > docs/hosts.schema.json"
    )

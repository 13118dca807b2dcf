"""`fleetflow host`: what it shows, writes and refuses."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fleetflow.host import app
from fleetflow.opened import recorded
from models import additions, database
from models.access import Access
from models.audit import Audit
from models.errors import FleetflowError, InventoryError, NoHostsError, NotFoundError, UnavailableError, UnknownNameError, UsageError
from models.hostsfile import HostEntry
from models.inventory import Inventory
from models.settings import Settings


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database, copied by each test: to make one takes a quarter of a second."""
    path = tmp_path_factory.mktemp("made") / "fleetflow.db"
    database.make(f"sqlite:///{path}")
    return path


@pytest.fixture(autouse=True)
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FLEETFLOW_HOME", str(tmp_path / "fleetflow"))
    (tmp_path / "fleetflow").mkdir()
    shutil.copy(made, tmp_path / "fleetflow")
    return tmp_path / "fleetflow"


def trail(home: Path) -> list[tuple[str, str, str]]:
    """The audit trail, the newest entry first."""
    access = Access.open(f"sqlite:///{home / 'fleetflow.db'}")
    try:
        return [(entry.action, entry.object, entry.detail) for entry in Audit(access).entries()]
    finally:
        access.close()


def host(*arguments: object) -> str:
    """What the command prints; raises what it raises."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, FleetflowError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def rows(target: str = "") -> dict[str, dict[str, object]]:
    lines = host("list", "--json", *([target] if target else [])).splitlines()
    return {row["name"]: row for row in map(json.loads, lines)}


def contents(home: Path) -> dict[str, str]:
    folder = home / "hosts.d"
    return {path.name: path.read_text() for path in folder.iterdir()} if folder.exists() else {}


def test_an_added_host_is_listed_as_it_was_said(home: Path) -> None:
    said = ["--address", "{name}.lan", "--user", "deploy", "--port", 2222, "--executor", "ssh", "--jump", "bastion"]
    more = ["--identity", "~/.ssh/id", "--host-key", "off", "--group", "web", "--group", "prod", "--tag", "dc=ams", "--tag", "v=1.10"]
    assert "added web[01-02]" in host("add", "web[01-02]", *said, *more)
    assert rows("@web") == {
        name: {
            "name": name,
            "address": f"{name}.lan",
            "executor": "ssh",
            "user": "deploy",
            "port": 2222,
            "jump": "bastion",
            "identity": str(home.parent / ".ssh" / "id"),
            "host_key": "off",
            "credentials": None,
            "groups": ["prod", "web"],
            "tags": {"dc": "ams", "v": "1.10"},
            "source": f"{home / 'hosts.d' / 'added.yaml'}:3",
        }
        for name in ("web01", "web02")
    }


def test_the_list_shows_every_known_host_and_where_it_comes_from(home: Path) -> None:
    (home / "hosts.yaml").write_text("hosts:\n  web1: {address: 10.0.0.1, tags: {dc: ams}}\n")
    (home.parent / ".ssh").mkdir(mode=0o700)
    (home.parent / ".ssh" / "config").write_text("Host bastion *.corp\n  User me\n")
    assert {name: row["source"] for name, row in rows().items()} == {
        "bastion": str(home.parent / ".ssh" / "config"),
        "localhost": "always known",
        "web1": f"{home / 'hosts.yaml'}:2",
    }
    table = host("list").splitlines()
    assert table[0].split() == ["NAME", "ADDRESS", "EXECUTOR", "TAGS", "SOURCE"]
    assert table[3].split() == ["web1", "10.0.0.1", "dc=ams", f"{home / 'hosts.yaml'}:2"]


def test_a_target_narrows_the_list(home: Path) -> None:
    host("add", "web[1-3]", "db1")
    assert list(rows("web*,!web2,root@db1:22")) == ["root@db1:22", "web1", "web3"]
    assert rows("root@db1:22")["root@db1:22"]["source"] == "the target itself"
    with pytest.raises(UnknownNameError):
        host("list", "@nobody")
    with pytest.raises(NoHostsError):
        host("list", "web1,!web1")


def test_adding_again_keeps_what_was_added_before(home: Path) -> None:
    host("add", "web1", "--user", "me")
    host("add", "web2")
    assert [rows()[name]["user"] for name in ("web1", "web2")] == ["me", None]
    assert list(contents(home)) == ["added.yaml"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["web1"], "'web1' is known already: .*hosts.yaml:2"),
        (["web[0-9]"], "'web1' is known already: .*hosts.yaml:2"),
        (["db1"], "'db1' is known already: .*hosts.yaml:4"),
        (["new[1-3]", "new2"], "'new2' is named twice"),
        (["new", "--port", "99999"], "port: .*65535"),
        (["new", "--port", "0"], "port: .*1"),
        (["new", "--user", "-oProxyCommand=x"], "user: .*not a user name"),
        (["new", "--user", ""], "user: .*not a user name"),
        (["new", "--group", "all"], "no group"),
        (["new", "--tag", "dc"], "--tag 'dc': write key=value"),
        (["new", "--tag", "dc=a b"], "not a tag value"),
        (["new", "--tag", "dc=a", "--tag", "dc=b"], "given twice"),
        (["--", "-x"], "'-x' is not a host name"),
        (["root@new"], "'root@new' is not a host name"),
        (["new;id"], "'new;id' is not a host name"),
        (["new\x1b[1m"], "'new.x1b.1m': a bracket does not end"),
        (["new[9-1]"], "runs backwards"),
        (["new[1-999999999]"], "more than 100,000"),
        (["new", "--group", "one", "--group", "two"], "disagree on user"),
    ],
)
def test_what_cannot_be_added_is_refused_and_nothing_is_written(home: Path, arguments: list[str], reason: str) -> None:
    (home / "hosts.yaml").write_text("hosts:\n  web1:\ngroups:\n  db: {hosts: db1}\n  one: {user: a}\n  two: {user: b}\n")
    with pytest.raises(UsageError, match=reason) as caught:
        host("add", *arguments)
    assert str(caught.value).isprintable()
    assert contents(home) == {}


def test_a_malformed_file_stops_an_addition_before_it_writes(home: Path) -> None:
    (home / "hosts.yaml").write_text("hosts: [\n")
    with pytest.raises(InventoryError, match=r"hosts.yaml:2"):
        host("add", "web1")
    assert contents(home) == {}


def test_removing_takes_hosts_out_of_ranges_and_files(home: Path) -> None:
    host("add", "web[01-05]", "--user", "me")
    host("add", "db1", "db2")
    assert "removed db1,web[02-03]" in host("remove", "web[02-03]", "db1")
    assert {name for name in rows() if name != "localhost"} == {"web01", "web04", "web05", "db2"}
    assert rows()["web04"]["user"] == "me"
    host("remove", "db2", "web[01,04-05]")
    assert list(rows()) == ["localhost"]


def test_what_people_wrote_is_not_removed(home: Path) -> None:
    host("add", "web1", "db1")
    (home / "hosts.yaml").write_text("hosts:\n  mine:\ngroups:\n  db:\n    hosts: db1\n")
    before = contents(home)
    with pytest.raises(UsageError, match=r"'mine' stands in .*hosts.yaml:2, which people write"):
        host("remove", "web1", "mine")
    with pytest.raises(UsageError, match=r"'db1' stands in .*hosts.yaml:5"):
        host("remove", "web1", "db1")
    with pytest.raises(NotFoundError, match="no host typo"):
        host("remove", "web1", "typo")
    assert contents(home) == before


def write(home: Path, name: str, text: str) -> Path:
    path = home.parent / name
    path.write_text(text)
    return path


def test_a_plain_list_is_imported(home: Path) -> None:
    path = write(home, "list", "# fleet\nweb[01-02], db1\nroot@old:2222  10.0.0.1\n\n")
    assert "(5 hosts, read as list)" in host("import", path, "--group", "fleet")
    found = rows("@fleet")
    assert list(found) == ["10.0.0.1", "db1", "old", "web01", "web02"]
    assert (found["old"]["user"], found["old"]["port"]) == ("root", 2222)


def test_etc_hosts_is_imported_without_the_addresses_of_no_machine(home: Path) -> None:
    text = "127.0.0.1 localhost\n127.0.1.1 me\n::1 ip6-localhost\nff02::1 ip6-allnodes\n"
    text += "10.0.0.1 web1.lan web1 # x\nfd00::2\tweb2\nfd00::1 web1.lan\n"
    output = host("import", write(home, "hosts", text))
    assert "(2 hosts, read as hosts)" in output
    assert "left out: line 7" in output
    assert {name: row["address"] for name, row in rows("@all").items()} == {"web1.lan": "10.0.0.1", "web2": "fd00::2"}


SSH = """
Host bastion
  HostName 203.0.113.9
  User hop
Host web1 web2 !web3 web3 *.corp
  HostName %h.lan
  ProxyJump bastion
  IdentityFile ~/.ssh/corp
  StrictHostKeyChecking accept-new
Match host web1 exec true
  User never
Host *
  User everyone
  Port 2022
"""


def test_an_ssh_config_is_imported_as_ssh_reads_it(home: Path) -> None:
    output = host("import", write(home, "config", SSH))
    assert "(4 hosts, read as ssh)" in output
    assert "left out: " in output
    assert "Match host web1 exec true" in output
    found = rows("@all")
    web1 = found["web1"]
    assert (web1["address"], web1["user"], web1["port"], web1["host_key"]) == ("web1.lan", "everyone", 2022, "accept-new")
    assert web1["jump"] == "hop@203.0.113.9:2022"
    assert found["web3"]["address"] is None


ANSIBLE = """
mail.example.com
jumper ansible_host=203.0.113.5 ansible_user=hop
[web]
web[01:03].example.com:2222 http_port=80  # a comment
[db]
db-[a:c] ansible_user="root"
[prod:children]
web
db
[web:vars]
ansible_user=www
[prod:vars]
ansible_user=deploy
ansible_ssh_common_args='-o ProxyJump=jumper -o StrictHostKeyChecking=no'
[all:vars]
ansible_ssh_private_key_file=~/.ssh/fleet
"""


def test_an_ansible_inventory_is_imported_with_its_variables_in_ansibles_order(home: Path) -> None:
    output = host("import", write(home, "inventory.ini", ANSIBLE))
    assert "(8 hosts, read as ansible)" in output
    assert "left out: variables http_port" in output
    found = rows("@all")
    assert [(name, row["user"], row["port"]) for name, row in found.items()] == [
        ("db-a", "root", None),
        ("db-b", "root", None),
        ("db-c", "root", None),
        ("jumper", "hop", None),
        ("mail.example.com", None, None),
        ("web01.example.com", "www", 2222),
        ("web02.example.com", "www", 2222),
        ("web03.example.com", "www", 2222),
    ]
    assert found["db-a"]["jump"] == "hop@203.0.113.5"
    assert found["db-a"]["host_key"] == "off"
    assert found["db-a"]["groups"] == ["db", "prod"]
    assert {row["identity"] for row in found.values()} == {str(home.parent / ".ssh" / "fleet")}


@pytest.mark.parametrize(
    ("format_", "text", "reason"),
    [
        ("list", "web1\nweb[1-\n", ":2: a bracket does not end"),
        ("list", "web1\nweb2;id\n", ":2: .*holds ';'"),
        ("list", "fe80::1\n", ":1: .*not a host name"),
        ("hosts", "10.0.0.1 a\nnonsense\n", ":2: a line is an address and its names"),
        ("hosts", "10.0.0.1 -x\n", ":1: '-x' is not a host name"),
        ("ansible", "[web]\nweb1 nonsense\n", ":2: 'nonsense' is not key=value"),
        ("ansible", "[web]\nweb1 'x\n", ":2: No closing quotation"),
        ("ansible", "[web]\nweb[3:1]\n", ":2: .*backwards"),
        ("ansible", "[web:nonsense]\n", ":1: .*no section"),
        ("ansible", "[a]\nx\n[a:children]\nb\n[b:children]\na\n", "circle"),
        ("ansible", "web1 ansible_port=99999\n", "'web1': port"),
        ("ssh", "Host web1\n  Nonsense x\n", ":2: unknown keyword"),
        ("ssh", "Host web1\n  User -x\n", "'web1': user"),
        ("guess", "# nothing\n", "there is no host in it"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line_and_nothing_is_written(home: Path, format_: str, text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        host("import", write(home, "file", text), "--format", format_)
    assert contents(home) == {}


def test_a_file_that_is_missing_or_no_text_is_refused(home: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        host("import", home / "missing")
    (home / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not text"):
        host("import", home / "binary")


def test_an_import_with_one_known_host_imports_none(home: Path) -> None:
    host("add", "web2")
    before = contents(home)
    with pytest.raises(UsageError, match="'web2' is known already"):
        host("import", write(home, "list", "web1\nweb2\n"))
    assert contents(home) == before


def test_a_second_import_replaces_the_first_only_when_asked(home: Path) -> None:
    path = write(home, "list", "web1\nweb2\n")
    host("import", path)
    path.write_text("web2\nweb3\n")
    with pytest.raises(UsageError, match="--replace imports it again"):
        host("import", path)
    host("import", path, "--replace")
    assert list(rows("@all")) == ["web2", "web3"]


def test_every_change_is_in_the_audit_trail_and_nothing_else_is(home: Path) -> None:
    file = write(home, "list", "db1 db2")
    host("add", "web[1-3]", "gate")
    host("import", file)
    with pytest.raises(UsageError):
        host("add", "web1")
    host("remove", "web[2-3]")
    changes = [("host.remove", "web[2-3]", ""), ("host.import", "db[1-2]", f"2 hosts of {file}"), ("host.add", "web[1-3],gate", "")]
    assert trail(home) == changes


def test_what_cannot_be_written_into_the_audit_trail_is_not_changed(home: Path) -> None:
    (home / "fleetflow.db").write_bytes(b"no database" * 100)
    with pytest.raises(UnavailableError):
        host("add", "web1")
    assert contents(home) == {}


def test_a_change_that_fails_leaves_no_entry(home: Path) -> None:
    with pytest.raises(InventoryError), recorded(Settings.load(), "host.add", "web1"):
        raise InventoryError(home, "no space left on the device")
    assert trail(home) == []


def test_the_first_host_may_come_before_there_is_a_database(home: Path) -> None:
    (home / "fleetflow.db").unlink()
    host("add", "web1")
    assert [action for action, _, _ in trail(home)] == ["host.add"]


def test_an_import_of_equal_hosts_is_written_as_ranges(home: Path) -> None:
    host("import", write(home, "list", "\n".join(f"web{number:03}" for number in range(500))))
    assert "web[000-499]: {}" in contents(home)["import-list.yaml"]


def test_additions_at_the_same_time_all_arrive(home: Path) -> None:
    names = {f"web{number}" for number in range(40)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: additions.add(home, "added.yaml", {name: HostEntry()}), names))
    assert set(Inventory.load(home).hosts) == names
    assert list(contents(home)) == ["added.yaml"]


def test_a_home_that_cannot_be_written_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETFLOW_HOME", "/proc/self")
    with pytest.raises(InventoryError, match=r"^/proc/self/hosts.d: "):
        host("add", "web1")


def test_a_file_in_place_of_hosts_d_is_one_clear_error(home: Path) -> None:
    (home / "hosts.d").write_text("")
    with pytest.raises(InventoryError, match=r"hosts.d: File exists"):
        host("add", "web1")


def test_the_command_imports_nothing_heavy_before_it_runs() -> None:
    heavy = {"prefect", "sqlalchemy", "rich.table", "yaml", "pydantic", "ClusterShell"}
    code = f"import sys, fleetflow.host; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == ""

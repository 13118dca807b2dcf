"""Every answer is compared with `ssh -G`, or `ssh -v` where -G shows less."""

import os
import pwd
import re
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from executors.ssh.config import ClientConfig, HostConfig
from executors.ssh.jumps import Hop, parse_jumps
from executors.ssh.options import select_algorithms
from models.errors import SettingsError
from models.values import HostKeyPolicy
from tests.programs import need

LOCAL_USER = pwd.getpwuid(os.getuid()).pw_name
TRUST = {"true": HostKeyPolicy.STRICT, "ask": HostKeyPolicy.STRICT, "accept-new": HostKeyPolicy.ACCEPT_NEW, "false": HostKeyPolicy.OFF}
FAMILIES = {"any": socket.AF_UNSPEC, "inet": socket.AF_INET, "inet6": socket.AF_INET6}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir(mode=0o700)
    return tmp_path


def write(home: Path, text: str) -> Path:
    """Lay out `config`, and the files that follow lines `== NAME` in ~/.ssh."""
    first, *others = re.split(r"^== (\S+)\n", text, flags=re.MULTILINE)
    for name, content in zip(others[::2], others[1::2], strict=True):
        (home / ".ssh" / name).parent.mkdir(exist_ok=True)
        (home / ".ssh" / name).write_text(content)
    (home / "config").write_text(first)
    return home / "config"


def ssh(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [need("ssh"), *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=20
    )


def ask_openssh(config: Path, name: str, *options: str) -> dict[str, str]:
    ended = ssh("-G", "-F", config, *options, name)
    assert ended.returncode == 0, ended.stderr
    return dict(line.partition(" ")[::2] for line in ended.stdout.splitlines())


def show_hops(hops: tuple[Hop, ...] | None) -> str | None:
    def show(hop: Hop) -> str:
        host = f"[{hop.host}]" if ":" in hop.host else hop.host
        return (f"{hop.user}@" if hop.user else "") + host + (f":{hop.port}" if hop.port else "")

    return ",".join(map(show, hops)) if hops else None


def show_paths(paths: tuple[Path, ...]) -> str:
    return " ".join(map(str, paths)).replace(str(Path.home()), pwd.getpwuid(os.getuid()).pw_dir)


def assert_same(found: HostConfig, oracle: dict[str, str]) -> None:
    """Compare all that is said; what is not said is OpenSSH's default there."""
    shown = {
        "hostname": found.hostname,
        "port": str(found.port or 22),
        "user": found.user or LOCAL_USER,
        "proxyjump": show_hops(found.proxy_jump),
        "userknownhostsfile": show_paths(found.user_known_hosts_files) or None,
        "globalknownhostsfile": show_paths(found.global_known_hosts_files) or None,
        "hostkeyalias": found.host_key_alias,
        "bindaddress": found.bind_address,
        "serveraliveinterval": str(found.server_alive_interval or 0),
        "serveralivecountmax": str(3 if found.server_alive_count_max is None else found.server_alive_count_max),
        "connecttimeout": "none" if found.connect_timeout is None else str(found.connect_timeout),
        "preferredauthentications": ",".join(found.preferred_authentications) if found.preferred_authentications else None,
        "identitiesonly": "yes" if found.identities_only else "no",
        "hashknownhosts": "yes" if found.hash_known_hosts else "no",
        "nohostauthenticationforlocalhost": "yes" if found.no_host_authentication_for_localhost else "no",
        "passwordauthentication": "no" if found.password_authentication is False else "yes",
        "kbdinteractiveauthentication": "no" if found.kbd_interactive_authentication is False else "yes",
    }
    assert shown == {key: oracle.get(key) for key in shown}
    assert (found.strict_host_key_checking or HostKeyPolicy.STRICT) is TRUST[oracle["stricthostkeychecking"]]
    assert (found.address_family or socket.AF_UNSPEC) is FAMILIES[oracle["addressfamily"]]
    assert (found.pubkey_authentication is False) is (oracle["pubkeyauthentication"] in {"no", "false"})


CASES = {
    "nothing said": ("", ["web1", "WEB1", "10.0.0.1", "127.1", "::0001", "fe80::1"]),
    "forms of a line": ('Port=2222\nuser = "joe d"\n\tHOSTNAME\t"h"  # a comment\n#Port 1\n', ["web1"]),
    "the first value wins": ("Port 1\nHost *\nPort 2\nUser a\nUser b\n", ["web1"]),
    "several names on a line": ("Host a 'b c' d\nPort 1\n", ["a", "d", "e"]),
    "names are matched as they are typed": ("Host Web\nPort 1\nHost *\nHostName %h.Example.COM\n", ["Web", "web", "WEB"]),
    "wildcards": (
        "Host web?? *.lan\nPort 1\nHost 10.*.1\nPort 2\nHost [ab]\nPort 3\n",
        ["web01", "web1", "x.lan", "10.0.0.1", "a", "[ab]"],
    ),
    "a negated name": ("Host *.lan !db* !x.lan\nPort 1\n", ["web.lan", "db.lan", "x.lan", "y"]),
    "a negated name alone matches nothing": ("Host !db\nPort 1\n", ["db", "web"]),
    "a negation before the match": ("Host !db* *\nPort 1\n", ["db1", "web"]),
    "HostName takes %h and %%": ("Host a\nHostName %h.lan\nHost b\nHostName x%%y\n", ["a", "b"]),
    "HostName as an address": ("Host a\nHostName 10.1\nHost b\nHostName ::0:1\n", ["a", "b"]),
    "Match host sees HostName": (
        "Host a\nHostName b.lan\nMatch host b.lan\nPort 1\nMatch originalhost a\nUser u\nMatch host a\nUser v\n",
        ["a", "b.lan", "B.LAN", "A"],
    ),
    "Match lists, wildcards and negation": (
        "Match host web*,!web9\nPort 1\nMatch !host web* user root,joe\nPort 2\nMatch host *.LAN\nPort 3\n",
        ["web1", "web9", "db", "x.lan"],
    ),
    "Match with equals signs": ("Match host=web1 originalhost=web*\nPort 1\n", ["web1", "web2"]),
    "Match user sees User above it": ("Match user joe\nPort 1\nUser other\nHost *\nUser joe\nMatch user joe\nPort 2\n", ["a"]),
    "Match localuser": (f"Match localuser {LOCAL_USER}\nPort 1\nMatch !localuser {LOCAL_USER}\nUser x\n", ["a"]),
    "Match all": ("Match all\nPort 1\nHost b\nUser b\nMatch all # end\nUser c\n", ["a", "b"]),
    "Match exec": ('Match exec "test %n = a"\nPort 1\nMatch !exec "test %h:%p:%r = b:22:joe" exec true\nUser x\n', ["a", "b"]),
    "Match exec has the tokens": (
        "User joe\nPort 2200\nHostName %h.lan\n"
        + "".join(
            f"Match exec \"test '{tokens}' = '{values}'\"\nUserKnownHostsFile /{number}\n"
            for number, (tokens, values) in enumerate(
                [("%h %n %p %r", "a.lan a 2200 joe"), ("%u %i", f"{LOCAL_USER} {os.getuid()}"), ("%l", socket.gethostname()), ("%%h", "%h")]
            )
        ),
        ["a", "b"],
    ),
    "Match exec has %C, %L, %d and %k": ("Match exec \"test -n '%C' -a -n '%L' -a -d '%d' -a '%k' = a\"\nPort 1\n", ["a", "b"]),
    "Match exec of every exit code but 0 is a miss": (
        "".join(f'Match exec "exit {code}"\nPort {code + 1}\n' for code in (1, 2, 127, 255, 0)) + 'Match !exec "exit 3"\nUser x\n',
        ["a"],
    ),
    "Match exec of a program that is not there is a miss": ("Match exec no-such-program-at-all\nPort 2\n", ["a"]),
    "several exec on a line": (
        'Match exec true exec true\nPort 1\nMatch exec true !exec true\nUser x\nMatch !exec false exec "exit 0" host a\nBindAddress ::1\n',
        ["a", "b"],
    ),
    "Match exec is quoted as any value": (
        "Match exec=\"test '%n' = a\" host a\nPort 1\nMatch exec \"echo 'a b' | grep -q 'a b'\" exec=true\nUser x\n",
        ["a", "b"],
    ),
    "Match exec sees what stands above it": (
        'Match exec "test %p = 22"\nPort 9\nMatch exec "test %p = 9"\nUser x\nMatch exec "test %r = x"\nBindAddress ::1\n',
        ["a"],
    ),
    "Match exec in the final pass": (
        'Match final exec "test %h = b.lan"\nPort 1\nMatch !final exec "test %h = b.lan"\nUser x\nHost a\nHostName b.lan\n',
        ["a", "b.lan"],
    ),
    "Match exec is not run behind a miss": ('Match host b exec "kill -9 $PPID"\nPort 1\n', ["a"]),
    "Match final sees what came of the first pass": (
        "Match final host b.lan\nPort 1\nMatch final\nUser u\nHost b.lan\nConnectTimeout 5\nHost a\nHostName b.lan\nMatch !final\nPort 2\n",
        ["a", "b.lan"],
    ),
    "HostName comes too late in the final pass": ("Match final\nHostName other\nHost b\nHostName c\n", ["a", "b"]),
    "Match canonical needs a second pass": (
        "Match canonical\nPort 1\nHost a\nCanonicalizeHostname yes\nCanonicalDomains lan.invalid\nProxyCommand none\n",
        ["b"],
    ),
    "Include": ("Include more\nPort 2\n== more\nPort 1\n", ["a"]),
    "Include in a block counts there only": (
        "Host a\nInclude more\nUser x\nHost *\nPort 3\n== more\nPort 1\nHost b\nPort 2\nHost *\nConnectTimeout 7\n",
        ["a", "b", "c"],
    ),
    "the block goes on behind an Include": ("Host a\nInclude more\nPort 9\n== more\nHost b\nUser u\n", ["a", "b"]),
    "Include of a glob, nested": (
        "Match host a\nInclude d/*.conf none-there\n== d/2.conf\nPort 2\nUser two\n== d/1.conf\nPort 1\nInclude deep\n== d/3.txt\nUser no\n"
        "== deep\nHost b\nUser b\nMatch host a\nConnectTimeout 3\n",
        ["a", "b"],
    ),
    "ProxyJump": (
        "Host a\nProxyJump j\nHost b\nProxyJump u@j1:22,j2,[fe80::1]:24\n"
        "Host c\nProxyJump ssh://u@j:25\nHost d\nProxyJump=me@j:2\nHost e f\nProxyJump none\n"
        "Host *\nProxyJump last\n",
        ["a", "c", "d", "e", "g"],
    ),
    "several jump hosts": ("ProxyJump u@j1:22,j2,v@[fe80::1]:24\n", ["a"]),
    "times": (
        "Host a\nConnectTimeout 90\nServerAliveInterval 1m30s\n"
        "Host b\nConnectTimeout none\nServerAliveInterval 1h2\n"
        "Host *\nConnectTimeout 5\nServerAliveCountMax 0\n",
        ["a", "b", "c"],
    ),
    "flags": (
        "Host a\nIdentitiesOnly YES\nHashKnownHosts true\nPasswordAuthentication no\n"
        "KbdInteractiveAuthentication false\nPubkeyAuthentication no\n"
        "NoHostAuthenticationForLocalhost yes\nPreferredAuthentications publickey,password\n"
        "Host b\nChallengeResponseAuthentication no\nPubkeyAuthentication host-bound\nHost *\nPasswordAuthentication yes\n",
        ["a", "b"],
    ),
    "host keys": (
        "Host a\nStrictHostKeyChecking accept-new\nHost b\nStrictHostKeyChecking off\n"
        "Host c\nStrictHostKeyChecking ask\nHost d\nStrictHostKeyChecking No\n"
        "Host *\nStrictHostKeyChecking yes\nHostKeyAlias Alias-%h\n",
        ["a", "b", "c", "d", "e"],
    ),
    "known_hosts files": (
        "Host a\nUserKnownHostsFile /x/%h /y/%k '/z/a b'\nHost b\nUserKnownHostsFile /dev/null\nGlobalKnownHostsFile /g/%h /g2\n"
        "Host c\nUserKnownHostsFile /u/%n-%p-%r-%u-%L-%l-%i-%%-%C\nUser joe\nPort 9\n"
        "Host d\nUserKnownHostsFile ${MADE_UP}/k\nHost *\nUserKnownHostsFile /later\n",
        ["a", "b", "c", "d", "e"],
    ),
    "family and source": ("AddressFamily inet6\nBindAddress ::1\n", ["a"]),
    "ignored words": ("IgnoreUnknown Special*,other\nSpecialThing 'x y'\nOther x\nPort 1\n", ["a"]),
    "quotes and escapes": ("User a\\\"b'c d'\"e f\"\\\\g\\ h # x\nHostName 'h'\n", ["a"]),
    "lines of other systems": ("Port 22\r\nUser joe\r\n\fHost\n".replace("\fHost\n", "Host a\f\nConnectTimeout 3 \t\f\n"), ["a"]),
}


@pytest.mark.parametrize(("text", "names"), CASES.values(), ids=CASES)
def test_a_lookup_says_what_openssh_says(home: Path, monkeypatch: pytest.MonkeyPatch, text: str, names: list[str]) -> None:
    monkeypatch.setenv("MADE_UP", "/made/up")
    path = write(home, text)
    config = ClientConfig(path)
    for name in names:
        assert_same(config.lookup(name), ask_openssh(path, name))


def test_a_user_and_a_port_that_were_typed_count_from_the_start(home: Path) -> None:
    path = write(home, "Match user joe\nConnectTimeout 5\nHost *\nUser other\nPort 9\nUserKnownHostsFile /k/%r-%p\n")
    assert_same(ClientConfig(path).lookup("a", user="joe", port=2222), ask_openssh(path, "a", "-l", "joe", "-p", "2222"))


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("IdentityFile /i/%h-%n-%r-%u-%p\nHostName b\nUser joe\nPort 7\n", ["/i/b-a-joe-LOCAL-7"]),
        (
            "IdentityFile /i/one\nHost a\nIdentityFile '/i/two 2'\nHost *\nIdentityFile /i/one\nIdentityFile /i/${MADE_UP}\n",
            ["/i/one", "/i/two 2", "/i/x"],
        ),
        ("IdentityFile none\n", []),
        ("Host b\nIdentityFile /i/b\n", None),
    ],
)
def test_key_files_are_collected_and_expanded(home: Path, monkeypatch: pytest.MonkeyPatch, text: str, files: list[str] | None) -> None:
    monkeypatch.setenv("MADE_UP", "x")
    path = write(home, text)
    told = re.findall(r"identity file (.*) type", ssh("-v", "-F", path, "-o", "ProxyCommand=false", "a").stderr)
    found = ClientConfig(path).lookup("a").identity_files
    if files is None:
        assert found is None
        assert all("/.ssh/id_" in name for name in told)
    else:
        assert found == tuple(Path(name.replace("LOCAL", LOCAL_USER)) for name in files)
        assert [str(name) for name in found] == [name for name in told if not name.endswith("-cert")]


PROXIES = [
    ("ProxyCommand nc -X 5 'it''s' %h %p # kept\n", None, "nc -X 5 'it''s' a 22 # kept"),
    ("ProxyCommand = x %% %n %r\nUser joe\n", None, "x % a joe"),
    ("ProxyCommand x\nProxyJump j\n", None, "x"),
    ("ProxyJump j\nProxyCommand x\n", (Hop("j"),), None),
    ("ProxyJump none\nProxyCommand x\n", (), "x"),
    ("ProxyCommand none\nProxyJump j\n", (), None),
    ("ProxyJump u%r@j-%h\nUser joe\n", (Hop("j-a", None, "ujoe"),), None),
    ("", None, None),
]


@pytest.mark.parametrize(("text", "hops", "command"), PROXIES)
def test_the_first_of_jump_and_command_counts(home: Path, text: str, hops: tuple[Hop, ...] | None, command: str | None) -> None:
    path = write(home, text)
    found = ClientConfig(path).lookup("a")
    assert (found.proxy_jump, found.proxy_command) == (hops, command)
    oracle = ask_openssh(path, "a")
    assert ("proxyjump" in oracle, "proxycommand" in oracle) == (bool(hops), command is not None)


def test_the_command_that_openssh_runs_is_the_one_found(home: Path) -> None:
    seen = home / "seen"
    path = write(home, f"HostName 127.1\nUser joe\nPort 7\nProxyCommand printf '%%s,' \"%h\" '%n' %p %r%% ${{HOME}} | tee {seen}\n")
    ssh("-F", path, "a")
    theirs = seen.read_text()
    found = ClientConfig(path).lookup("a").proxy_command
    assert found is not None
    subprocess.run(["/bin/sh", "-c", found], capture_output=True, check=True)
    assert seen.read_text() == theirs == f"127.0.0.1,a,7,joe%,{home},"


@pytest.mark.parametrize("value", ["none", "SSH_AUTH_SOCK", "$MADE_UP", "$NOT_THERE_AT_ALL", "/run/%n", "~/s", "${MADE_UP}/s"])
def test_the_agent_is_a_socket_or_none_or_not_said(home: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MADE_UP", "/made/up")
    expected = {
        "none": "none",
        "SSH_AUTH_SOCK": None,
        "$MADE_UP": "/made/up",
        "$NOT_THERE_AT_ALL": "none",
        "/run/%n": "/run/a",
        "~/s": f"{home}/s",
        "${MADE_UP}/s": "/made/up/s",
    }
    assert ClientConfig(write(home, f"IdentityAgent {value}\n")).lookup("a").identity_agent == expected[value]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Port 22 23\n", 1),
        ("Host b\nPort x\n", 2),
        ("Host b\n\nPort 65536\n", 3),
        ("Port 0\n", 1),
        ("StrictHostKeyChecking maybe\n", 1),
        ("IdentitiesOnly perhaps\n", 1),
        ("ConnectTimeout 5x\n", 1),
        ("ProxyJump a:b:c\n", 1),
        ("ProxyJump @a\n", 1),
        ("ProxyJump a,,b\n", 1),
        ("Match\n", 1),
        ("Match host\n", 1),
        ("Match colour red\n", 1),
        ("Match exec\n", 1),
        ('Match exec "kill -9 $$"\n', 1),
        ("Match exec 'echo %x'\n", 1),
        ("Match host a exec 'echo %T'\n", 1),
        ("Match all host b\n", 1),
        ("HostName %x\n", 1),
        ("UserKnownHostsFile ${NOT_THERE_AT_ALL}\n", 1),
        ("UserKnownHostsFile none /x\n", 1),
        ("AddressFamily 7\n", 1),
        ("ServerAliveCountMax -1\n", 1),
        ("NoSuchThing x\n", 1),
        ("User 'x\n", 1),
        ("User\n", 1),
    ],
)
def test_what_openssh_refuses_is_refused_with_file_and_line(home: Path, text: str, number: int) -> None:
    path = write(home, text)
    assert ssh("-G", "-F", path, "a").returncode == 255
    with pytest.raises(SettingsError) as caught:
        ClientConfig(path).lookup("a")
    assert caught.value.source == f"{path}:{number}"


@given(st.text(alphabet="ab#\\'\" \t=%", min_size=1, max_size=12))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_is_cut_as_openssh_cuts_it(value: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config")
        path.write_text(f"HostKeyAlias {value}\n")
        told = ssh("-G", "-F", path, "a")
        try:
            found = ClientConfig(path).lookup("a").host_key_alias
        except SettingsError:
            assert told.returncode == 255
        else:
            assert told.returncode == 0, told.stderr
            assert f"hostkeyalias {found}\n" in told.stdout


_LISTS = st.lists(st.text(alphabet="ab*?!", min_size=1, max_size=4).filter(lambda text: text != "!"), min_size=1, max_size=3)


@given(_LISTS, st.lists(st.text(alphabet="ab", min_size=1, max_size=4), min_size=1, max_size=2))
@settings(max_examples=40, deadline=None)
def test_any_patterns_match_as_openssh_matches_them(patterns: list[str], names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config")
        path.write_text(f"Host {' '.join(patterns)}\nPort 1\nMatch host {','.join(patterns)}\nUser x\n")
        config = ClientConfig(path)
        for name in names:
            assert_same(config.lookup(name), ask_openssh(path, name))


@pytest.fixture
def files(home: Path) -> tuple[Path, Path]:
    """The default file and a system-wide one."""
    (home / ".ssh" / "config").write_text("User mine\n")
    (home / "ssh_config").write_text("User theirs\nPort 2222\nInclude more\n")
    (home / "more").write_text("ConnectTimeout 4\n")
    return home / ".ssh" / "config", home / "ssh_config"


def test_the_system_wide_file_is_read_behind_the_default_one_alone(files: tuple[Path, Path]) -> None:
    own, system = files
    found = ClientConfig(Path("~/.ssh/config"), system=system).lookup("a")
    assert (found.user, found.port, found.connect_timeout) == ("mine", 2222, 4)
    assert ClientConfig(own.rename(own.with_name("other")), system=system).lookup("a").port is None
    assert ClientConfig(own, system=system).lookup("a").user == "theirs"
    assert ClientConfig(own, system=None).lookup("a").user is None
    assert ClientConfig(Path("none"), system=system).lookup("a").port is None


def test_a_change_is_seen_at_the_next_lookup(files: tuple[Path, Path]) -> None:
    own, system = files
    config = ClientConfig(own, system=system)
    assert config.lookup("a") is config.lookup("a")
    (system.parent / "more").write_text("ConnectTimeout 14\n")
    assert config.lookup("a").connect_timeout == 14
    own.write_text("Port 22\n")
    assert (config.lookup("a").user, config.lookup("a").port) == ("theirs", 22)


def test_tilde_is_the_home_of_the_environment(home: Path) -> None:
    found = ClientConfig(write(home, "IdentityFile ~/id\nUserKnownHostsFile ~/k %d/l\nGlobalKnownHostsFile ~/g\n")).lookup("a")
    assert found.identity_files == (home / "id",)
    assert found.user_known_hosts_files == (home / "k", home / "l")
    assert found.global_known_hosts_files == (home / "g",)


def test_no_known_hosts_file_at_all_may_be_said(home: Path) -> None:
    found = ClientConfig(write(home, "UserKnownHostsFile none\nGlobalKnownHostsFile NONE\n")).lookup("a")
    assert (found.user_known_hosts_files, found.global_known_hosts_files) == ((), ())


def test_a_user_may_be_made_of_tokens(home: Path) -> None:  # OpenSSH 9.7 and later
    found = ClientConfig(write(home, "User %n-${HOME}\nIdentityFile /i/%r\n")).lookup("a")
    assert found.user == f"a-{home}"
    assert found.identity_files == (Path(f"/i/a-{home}"),)


def test_a_command_of_match_is_asked_at_every_lookup(home: Path) -> None:
    config = ClientConfig(write(home, f"Match exec 'test -e {home}/flag'\nPort 1\n"))
    assert config.lookup("a").port is None
    (home / "flag").touch()
    assert config.lookup("a").port == 1


def test_tags_choose_blocks(home: Path) -> None:  # OpenSSH 9.4 and later
    config = ClientConfig(
        write(home, 'Host a\nTag blue\nMatch tagged bl*\nPort 1\nMatch tagged ""\nPort 2\nMatch sessiontype exec\nUser x\n')
    )
    assert (config.lookup("a").port, config.lookup("b").port, config.lookup("b").user) == (1, 2, "x")


@pytest.mark.parametrize(
    ("text", "hops"),
    [
        ("none", ()),
        ("j", (Hop("j"),)),
        ("u@a:22,b", (Hop("a", 22, "u"), Hop("b"))),
        ("a, b", (Hop("a"), Hop("b"))),
        ("u@d@[::1]:2", (Hop("::1", 2, "u@d"),)),
        ("ssh://u%40d@h:3/", (Hop("h", 3, "u@d"),)),
    ],
)
def test_jump_hosts_are_read(text: str, hops: tuple[Hop, ...]) -> None:
    assert parse_jumps(text) == hops


@pytest.mark.parametrize("text", ["", "a,", "a:x", "a:70000", "a:0", "@a", "u@", "::1", "[::1", "ssh://a/path"])
def test_what_is_no_jump_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text.rpartition(",")[2]))):
        parse_jumps(text)


@pytest.mark.parametrize(
    ("written", "names"),
    [(None, "abc"), ("c,a", "ca"), ("+d", "abc"), ("-b*", "ac"), ("^c", "cab"), ("?", "abc"), ("x", "")],
)
def test_algorithms_are_chosen_from_those_we_speak(written: str | None, names: str) -> None:
    assert select_algorithms(written, ["a", "b", "c"]) == list(names)

"""The oracles are `ssh-keygen -F` for the lines, and what OpenSSH's client does before a real sshd for the verdict."""

import base64
import fcntl
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import paramiko
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from executors.ssh.known_hosts import KnownHosts, Standing, Verdict, explain, fingerprint
from models.errors import HostKeyError
from tests.programs import need

CURRENT = paramiko.ECDSAKey.generate(bits=256)
OTHER = paramiko.ECDSAKey.generate(bits=256)
OTHER_TYPE = paramiko.RSAKey.generate(2048)


def show(key: paramiko.PKey) -> str:
    return f"{key.get_name()} {base64.b64encode(key.asbytes()).decode()}"


KEYS = {"CURRENT": show(CURRENT), "OTHER_TYPE": show(OTHER_TYPE), "OTHER": show(OTHER)}
KEYS |= {"CUT": KEYS["CURRENT"][:-4], "PADDED": KEYS["OTHER"] + "AAAA"}


def write(path: Path, text: str) -> Path:
    """Lay out a file in which words stand for keys."""
    for word, key in KEYS.items():
        text = re.sub(rf"\b{word}\b", key, text)
    path.write_text(text)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "known_hosts"


@dataclass(frozen=True)
class Client:
    """OpenSSH's client in front of an sshd that shows the key CURRENT, without a port."""

    folder: Path

    def meet(self, name: str, port: int, known_hosts: Path, policy: str = "accept-new") -> str:
        server = f"{need('sshd')} -i -f {self.folder / 'sshd_config'}"
        options = {
            "BatchMode": "yes",
            "PreferredAuthentications": "none",
            "UserKnownHostsFile": known_hosts,
            "GlobalKnownHostsFile": "none",
            "StrictHostKeyChecking": policy,
            "UpdateHostKeys": "no",
            "ProxyCommand": server,
        }
        arguments = [f"-o{key}={value}" for key, value in options.items()]
        ended = subprocess.run(
            [need("ssh"), "-F", "none", *arguments, "-p", str(port), name, "true"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        return ended.stderr


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Client:
    folder = tmp_path_factory.mktemp("sshd")
    CURRENT.write_private_key_file(str(folder / "key"))
    (folder / "sshd_config").write_text(f"HostKey {folder / 'key'}\nUsePAM no\n")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd wants it; the service makes it at boot
    return Client(folder)


CASES: Sequence[tuple[str, str, int, Standing, int | None]] = [
    ("web1 CURRENT\n", "web1", 22, Standing.KNOWN, 1),
    ("web1 CURRENT\n", "WEB1", 22, Standing.KNOWN, 1),
    ("WEB1 CURRENT\n", "web1", 22, Standing.KNOWN, 1),
    ("# web1 CURRENT\n\nweb2 CURRENT\n", "web1", 22, Standing.UNKNOWN, None),
    ("web2,web1,10.0.0.1 CURRENT a comment\n", "web1", 22, Standing.KNOWN, 1),
    ("  web1\t CURRENT\n", "web1", 22, Standing.KNOWN, 1),
    ("web1 CURRENT\r\n", "web1", 22, Standing.KNOWN, 1),
    ("web1 OTHER\n", "web1", 22, Standing.CHANGED, 1),
    ("web1 OTHER_TYPE\n", "web1", 22, Standing.NEW_TYPE, 1),
    ("web1 OTHER_TYPE\nweb1 OTHER\n", "web1", 22, Standing.CHANGED, 2),
    ("web1 OTHER\nweb1 OTHER_TYPE\nweb1 CURRENT\n", "web1", 22, Standing.KNOWN, 3),
    ("web1 CURRENT\nweb1 OTHER\n", "web1", 22, Standing.KNOWN, 1),
    ("@revoked * CURRENT\nweb1 CURRENT\n", "web1", 22, Standing.REVOKED, 1),
    ("web1 CURRENT\n@revoked web1 CURRENT\n", "web1", 22, Standing.REVOKED, 2),
    ("@revoked * OTHER\nweb1 CURRENT\n", "web1", 22, Standing.KNOWN, 2),
    ("@revoked * OTHER\n", "web1", 22, Standing.UNKNOWN, None),
    ("@cert-authority * OTHER_TYPE\nweb1 CURRENT\n", "web1", 22, Standing.KNOWN, 2),
    ("@cert-authority * CURRENT\n", "web1", 22, Standing.UNKNOWN, None),
    ("@nonsense web1 CURRENT\n", "web1", 22, Standing.UNKNOWN, None),
    ("@revoked @revoked web1 CURRENT\n", "web1", 22, Standing.UNKNOWN, None),
    ("[web1]:2222 CURRENT\n", "web1", 2222, Standing.KNOWN, 1),
    ("[web1]:2222 CURRENT\n", "web1", 22, Standing.UNKNOWN, None),
    ("[web1]:2222 CURRENT\n", "web1", 2223, Standing.UNKNOWN, None),
    ("web1 CURRENT\n", "web1", 2222, Standing.KNOWN, 1),
    ("web1 OTHER\n", "web1", 2222, Standing.UNKNOWN, None),
    ("web1 CURRENT\n[web1]:2222 OTHER\n", "web1", 2222, Standing.CHANGED, 2),
    ("[web*]:* CURRENT\n", "web1", 2222, Standing.KNOWN, 1),
    ("web* CURRENT\n", "web1", 22, Standing.KNOWN, 1),
    ("*.lan,!db.lan CURRENT\n", "web.lan", 22, Standing.KNOWN, 1),
    ("*.lan,!db.lan CURRENT\n", "db.lan", 22, Standing.UNKNOWN, None),
    ("*.LAN,web? OTHER\n", "x.lan", 22, Standing.CHANGED, 1),
    ("web1\nweb1 \nweb1 ecdsa-sha2-nistp256\nweb1 ssh-rsa AAAA\nweb1 CURRENT\n", "web1", 22, Standing.KNOWN, 5),
    ("web1 CUT\nweb1 PADDED\n", "web1", 22, Standing.UNKNOWN, None),
    ("web1 # CURRENT\nweb1 ecdsa-sha2-nistp256 !!!\nweb1 ssh-rsa QUJD\n", "web1", 22, Standing.UNKNOWN, None),
    ("|1|broken|hash CURRENT\n|9|a|b CURRENT\n||| CURRENT\nweb1 CURRENT", "web1", 22, Standing.KNOWN, 4),
    ("fe80::1 CURRENT\n", "FE80::1", 22, Standing.KNOWN, 1),
]


def told(standing: Standing) -> str:
    """What OpenSSH says under accept-new."""
    return {
        Standing.KNOWN: "Permission denied",
        Standing.UNKNOWN: "Permanently added",
        Standing.NEW_TYPE: "IDENTIFICATION HAS CHANGED",
        Standing.CHANGED: "IDENTIFICATION HAS CHANGED",
        Standing.REVOKED: "REVOKED HOST KEY DETECTED",
    }[standing]


@pytest.mark.parametrize(("text", "name", "port", "standing", "line"), CASES)
def test_a_key_is_judged_as_openssh_judges_it(
    path: Path, client: Client, text: str, name: str, port: int, standing: Standing, line: int | None
) -> None:
    verdict = KnownHosts([write(path, text)]).check(name, port, CURRENT)
    assert (verdict.standing, verdict.entry and verdict.entry.line) == (standing, line)
    assert told(standing) in client.meet(name, port, path)


@pytest.mark.parametrize(
    ("text", "name", "port", "standing"), [case[:4] for case in CASES if not re.search(r"[*?!|@]|1$", case[0], re.MULTILINE)]
)
def test_a_key_is_judged_alike_when_the_names_are_hashed(path: Path, text: str, name: str, port: int, standing: Standing) -> None:
    subprocess.run([need("ssh-keygen"), "-q", "-H", "-f", str(write(path, text))], check=True, capture_output=True)
    assert path.read_bytes().split(b"\n")[-2].startswith(b"|1|")
    assert KnownHosts([path]).check(name, port, CURRENT).standing is standing


def test_lines_are_found_in_every_file_in_order(tmp_path: Path) -> None:
    files = [write(tmp_path / "a", "x OTHER\n"), tmp_path / "missing", write(tmp_path / "b", "web1 OTHER\n")]
    system = write(tmp_path / "c", "web1 CURRENT\n")
    verdict = KnownHosts(files, [system]).check("web1", 22, CURRENT)
    assert verdict.standing is Standing.KNOWN
    assert verdict.entry is not None
    assert (verdict.entry.path, verdict.entry.line) == (system, 1)


def test_keys_of_types_that_nobody_here_can_parse_still_count(path: Path) -> None:
    blob = b"".join(len(part).to_bytes(4) + part for part in (b"ssh-new@example.com", b"key"))
    path.write_text(f"web1 ssh-new@example.com {base64.b64encode(blob).decode()}\n")
    assert KnownHosts([path]).check("web1", 22, CURRENT).standing is Standing.NEW_TYPE
    assert KnownHosts([path]).algorithms("web1", 22) == ["ssh-new@example.com"]


def test_the_name_of_a_signature_stands_for_the_key_as_with_openssh(path: Path) -> None:
    path.write_text("web1 " + show(OTHER_TYPE).replace("ssh-rsa ", "rsa-sha2-512 ") + "\n")
    assert KnownHosts([path]).check("web1", 22, OTHER_TYPE).standing is Standing.KNOWN


def test_the_types_known_for_a_host_are_told(path: Path) -> None:
    known = KnownHosts(
        [
            write(
                path,
                "web1 OTHER_TYPE\nweb* CURRENT\nweb1 OTHER\n@cert-authority * OTHER\n[web2]:7 OTHER_TYPE\n@revoked x CURRENT\nx CURRENT\n",
            )
        ]
    )
    assert known.algorithms("web1", 22) == ["ssh-rsa", "ecdsa-sha2-nistp256"]
    assert known.algorithms("web1", 2222) == ["ssh-rsa", "ecdsa-sha2-nistp256"]
    assert known.algorithms("web2", 7) == ["ssh-rsa"]
    assert known.algorithms("x", 22) == []
    assert known.algorithms("nobody", 22) == []


def find_by_openssh(path: Path, name: str) -> list[int]:
    ended = subprocess.run([need("ssh-keygen"), "-F", name, "-f", str(path)], capture_output=True, text=True, check=False)
    return [int(number) for number in re.findall(r"^# Host .* found: line (\d+)", ended.stdout, re.MULTILINE)]


def find(path: Path, name: str, port: int = 22) -> list[int]:
    return [entry.line for entry in KnownHosts([path]).entries(name, port)]


_PATTERN = st.builds(str.__add__, st.sampled_from(["", "", "!"]), st.text(alphabet="aAb.*?[]:", min_size=1, max_size=5))
_NAMES = st.lists(_PATTERN, min_size=1, max_size=3).map(",".join)
_MARKER = st.sampled_from(["", "", "", "@revoked ", "@cert-authority "])


@given(
    st.lists(st.tuples(_MARKER, _NAMES), min_size=1, max_size=12),
    st.lists(st.text(alphabet="ab.", min_size=1, max_size=4), min_size=1, max_size=2),
)
@settings(max_examples=25, deadline=None)
def test_any_patterns_find_the_lines_that_openssh_finds(rows: list[tuple[str, str]], names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "known_hosts")
        path.write_text("".join(f"{marker}{patterns} {show(CURRENT)}\n" for marker, patterns in rows))
        for name in names:
            assert find(path, name) == find_by_openssh(path, name)
            assert find(path, name, 2222) == find_by_openssh(path, f"[{name}]:2222")


def test_hashed_names_are_found_like_plain_ones(path: Path) -> None:
    write(path, "".join(f"web{number},10.0.0.{number} CURRENT\n[web{number}]:2222 OTHER\nweb{number} OTHER_TYPE\n" for number in range(20)))
    subprocess.run([need("ssh-keygen"), "-q", "-H", "-f", str(path)], check=True, capture_output=True)
    assert all(line.startswith("|1|") for line in path.read_text().splitlines())
    known = KnownHosts([path])
    for number in range(20):
        for name, port, spelled in [
            (f"web{number}", 22, f"web{number}"),
            (f"web{number}", 2222, f"[web{number}]:2222"),
            (f"10.0.0.{number}", 22, f"10.0.0.{number}"),
        ]:
            assert [entry.line for entry in known.entries(name, port)] == find_by_openssh(path, spelled) != []
    assert known.entries("web20", 22) == []


@pytest.mark.parametrize("hashed", [False, True], ids=["plain", "hashed"])
@pytest.mark.parametrize(("name", "port"), [("web1", 22), ("Web1", 2222), ("fe80::1", 22)])
def test_a_key_that_was_added_is_known_here_and_to_openssh(path: Path, client: Client, name: str, port: int, *, hashed: bool) -> None:
    known = KnownHosts([path], hash_names=hashed)
    assert known.add(name, port, CURRENT).standing is Standing.KNOWN
    assert known.check(name, port, CURRENT).standing is Standing.KNOWN
    assert KnownHosts([path]).check(name, port, CURRENT).standing is Standing.KNOWN
    assert path.read_text().startswith("|1|") is hashed
    assert told(Standing.KNOWN) in client.meet(name, port, path, policy="yes")


def test_a_plain_line_is_written_as_openssh_writes_it(path: Path, client: Client) -> None:
    client.meet("Web1", 2222, path)
    theirs = path.read_text()
    path.unlink()
    KnownHosts([path]).add("Web1", 2222, CURRENT)
    assert path.read_text() == theirs


def test_the_file_and_its_folder_are_made_for_us_alone(tmp_path: Path) -> None:
    path = tmp_path / "home" / ".ssh" / "known_hosts"
    old = os.umask(0)
    try:
        KnownHosts([path]).add("web1", 22, CURRENT)
    finally:
        os.umask(old)
    assert oct(path.stat().st_mode)[-3:] == "600"
    assert oct(path.parent.stat().st_mode)[-3:] == "700"


def test_only_a_host_of_which_nothing_is_known_is_added(path: Path) -> None:
    write(path, "a OTHER\nb OTHER_TYPE\nc CURRENT\n@revoked d CURRENT\n")
    before = path.read_bytes()
    known = KnownHosts([path])
    standings = [known.add(name, 22, CURRENT).standing for name in "abcd"]
    assert standings == [Standing.CHANGED, Standing.NEW_TYPE, Standing.KNOWN, Standing.REVOKED]
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["web1 CURRENT", "web1 CURRENT\n"])
def test_a_line_without_its_end_is_ended_first(path: Path, text: str) -> None:
    write(path, text)
    known = KnownHosts([path])
    known.add("web2", 22, CURRENT)
    assert [known.check(name, 22, CURRENT).entry.line for name in ("web1", "web2")] == [1, 2]  # type: ignore[union-attr] # known: has a line
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize("name", ["web*", "a,b", "@revoked", "#x", "a b", "!a", "|1|x", "[a]"])
def test_a_name_that_would_be_read_as_something_else_is_not_written(path: Path, name: str) -> None:
    with pytest.raises(HostKeyError, match="cannot be recorded"):
        KnownHosts([path]).add(name, 22, CURRENT)
    assert not path.exists()


def test_where_nothing_can_be_written_an_error_says_so(path: Path) -> None:
    with pytest.raises(HostKeyError, match="UserKnownHostsFile is none"):
        KnownHosts([]).add("web1", 22, CURRENT)
    path.mkdir()
    with pytest.raises(HostKeyError, match="Is a directory"):
        KnownHosts([path]).add("web1", 22, CURRENT)


def test_what_goes_to_dev_null_is_forgotten() -> None:
    known = KnownHosts([Path("/dev/null")])
    assert known.add("web1", 22, CURRENT).standing is Standing.KNOWN
    assert known.check("web1", 22, OTHER).standing is Standing.UNKNOWN


def run_at_once(count: int, act: Callable[[int], Verdict]) -> list[Verdict]:
    barrier = threading.Barrier(count)

    def wait_and_act(number: int) -> Verdict:
        barrier.wait()
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(wait_and_act, range(count)))


@pytest.mark.parametrize("shared", [True, False], ids=["one reader", "a reader each"])
def test_a_hundred_accepts_at_once_write_each_line_whole_and_once(path: Path, *, shared: bool) -> None:
    common = KnownHosts([path])
    verdicts = run_at_once(100, lambda number: (common if shared else KnownHosts([path])).add(f"web{number // 2}", 22, CURRENT))
    assert {verdict.standing for verdict in verdicts} == {Standing.KNOWN}
    assert sorted(path.read_text().splitlines()) == sorted(f"web{number} {show(CURRENT)}" for number in range(50))


def test_of_two_keys_for_one_new_host_only_the_first_is_accepted(path: Path) -> None:
    verdicts = run_at_once(2, lambda number: KnownHosts([path]).add("web1", 22, (CURRENT, OTHER)[number]))
    assert sorted(verdict.standing for verdict in verdicts) == [Standing.CHANGED, Standing.KNOWN]
    assert len(path.read_text().splitlines()) == 1


def test_processes_take_turns(path: Path) -> None:
    code = (
        "import sys, base64, paramiko; from pathlib import Path; from executors.ssh.known_hosts import KnownHosts\n"
        "known = KnownHosts([Path(sys.argv[1])]); key = paramiko.ECDSAKey(data=base64.b64decode(sys.argv[2]))\n"
        "for number in range(50): known.add(f'web{number}', 22, key)"
    )
    arguments = [sys.executable, "-c", code, str(path), base64.b64encode(CURRENT.asbytes()).decode()]
    running = [subprocess.Popen(arguments, cwd=Path(__file__).parents[3]) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert sorted(path.read_text().splitlines()) == sorted(f"web{number} {show(CURRENT)}" for number in range(50))


def test_a_change_of_the_file_is_seen(path: Path) -> None:
    known = KnownHosts([path])
    assert known.check("web1", 22, CURRENT).standing is Standing.UNKNOWN
    write(path, "web1 OTHER\nweb2 OTHER\n")
    assert known.check("web1", 22, CURRENT).standing is Standing.CHANGED
    subprocess.run([need("ssh-keygen"), "-q", "-R", "web1", "-f", str(path)], check=True, capture_output=True)
    assert known.check("web1", 22, CURRENT).standing is Standing.UNKNOWN
    known.add("web1", 22, CURRENT)
    path.unlink()
    assert known.check("web1", 22, CURRENT).standing is Standing.UNKNOWN


def count_open(path: Path) -> int:
    """How many descriptors of this process stand for a file."""
    return sum(fd.exists() and fd.samefile(path) for fd in Path("/proc/self/fd").iterdir())


def test_a_file_that_is_replaced_while_we_wait_for_its_lock_is_not_written_to(path: Path) -> None:
    write(path, "web1 CURRENT\n")
    old = path.open()
    fcntl.flock(old, fcntl.LOCK_EX)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(KnownHosts([path]).add, "web2", 22, CURRENT)
        deadline = time.monotonic() + 10
        while count_open(path) < 2:
            assert time.monotonic() < deadline
        (path.with_name("new")).write_text("")
        path.with_name("new").rename(path)
        old.close()
        assert waiting.result(10).standing is Standing.KNOWN
    assert path.read_text().startswith("web2 ")


def test_all_of_five_thousand_lines_are_found(path: Path) -> None:
    write(path, "".join(f"web{number},10.0.{number // 256}.{number % 256} CURRENT\n" for number in range(5000)))
    known = KnownHosts([path])
    assert {known.check(f"web{number}", 22, CURRENT).standing for number in range(5000)} == {Standing.KNOWN}


@pytest.mark.parametrize(
    ("text", "port", "message"),
    [
        (
            "web1 OTHER\n",
            22,
            "host key of web1 has changed (ECDSA {}); the old one stands at ~/.ssh/known_hosts:1; if that is right: ssh-keygen -R web1",
        ),
        (
            "\n[web1]:7 OTHER\n",
            7,
            "host key of [web1]:7 has changed (ECDSA {}); the old one stands at ~/.ssh/known_hosts:2; "
            "if that is right: ssh-keygen -R '[web1]:7'",
        ),
        (
            "web1 OTHER_TYPE\n",
            22,
            "host key of web1 is of a type not known for it (ECDSA {}); its RSA key stands at ~/.ssh/known_hosts:1; "
            "if it is right: ssh-keyscan -t ecdsa web1 >> ~/.ssh/known_hosts",
        ),
        (
            "",
            7,
            "host key of [web1]:7 is not known (ECDSA {}); "
            "if it is right: ssh-keyscan -t ecdsa -p 7 web1 >> ~/.ssh/known_hosts, or allow accept-new",
        ),
        ("@revoked * CURRENT\n", 22, "host key of web1 is revoked (ECDSA {}) at ~/.ssh/known_hosts:1"),
    ],
)
def test_a_refusal_is_told_in_one_line_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, port: int, message: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    verdict = KnownHosts([write(tmp_path / ".ssh" / "known_hosts", text)]).check("web1", port, CURRENT)
    assert explain(verdict, "web1", port, CURRENT) == message.format(fingerprint(CURRENT))


def test_the_advice_for_a_changed_key_removes_the_line(path: Path) -> None:
    known = KnownHosts([write(path, "[web1]:7 OTHER\n")])
    advice = explain(known.check("web1", 7, CURRENT), "web1", 7, CURRENT).rpartition("if that is right: ")[2]
    subprocess.run(["/bin/sh", "-c", advice], check=True, capture_output=True)
    assert known.check("web1", 7, CURRENT).standing is Standing.UNKNOWN


def test_fingerprints_are_those_of_openssh(path: Path) -> None:
    write(path, "web1 CURRENT\n")
    shown = subprocess.run([need("ssh-keygen"), "-l", "-f", str(path)], capture_output=True, text=True, check=True).stdout
    assert fingerprint(CURRENT) in shown

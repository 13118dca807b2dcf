"""How the agent enrols, and what it says to its hub and hears from it."""

import datetime
import hashlib
import json
import os
import re
import ssl
import stat
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from models.values import Attempt
from tests.executors.agent.agents import Agent, enrolled
from tests.executors.agent.hub import AGENT, CREDENTIAL, Hub, Message, serve
from tests.executors.processes import marked
from tests.until import until


def test_an_enrolment_keeps_a_credential_that_is_its_own(hub: Hub, url: str, tmp_path: Path) -> None:
    host = Agent(tmp_path / "state", hub, url)
    joined = host.join()
    assert (joined.returncode, joined.stdout) == (0, f"enrolled as web1 ({AGENT}) at {url}: approved\n")
    identity = host.state / "identity"
    kept = json.loads(identity.read_text())
    assert (kept["agent"], kept["credential"], kept["name"]) == (AGENT, CREDENTIAL, "web1")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (identity, host.state)] == [0o600, 0o700]
    asked = host.hub.joins[0]
    assert set(asked) == {"v", "token", "name", "machine", "version", "facts"}
    assert set(asked["facts"]) >= {"os", "kernel", "python", "addresses", "arch", "hostname"}


def test_who_is_enrolled_is_not_enrolled_by_mistake(host: Agent) -> None:
    again = host.join()
    assert (again.returncode, again.stdout) == (2, "")
    assert "this host is enrolled already, as web1" in again.stderr
    assert host.join("--replace").returncode == 0


def test_a_token_may_come_by_stdin(hub: Hub, url: str, tmp_path: Path) -> None:
    agent = Agent(tmp_path / "state", hub, url)
    done = agent.verb("join", "--hub", url, "--token", "-", "--state", str(agent.state), stdin="good\n")
    assert done.returncode == 0, done


def test_a_token_that_the_hub_does_not_take(hub: Hub, url: str, tmp_path: Path) -> None:
    agent = Agent(tmp_path / "state", hub, url)
    done = agent.join(word="bad")
    assert (done.returncode, done.stderr) == (1, "fleetflow-agent: the hub says: the token is unknown\n")
    assert not (agent.state / "identity").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--hub", "http://192.0.2.1:80"), "plain http would show the credential to the network; use https"),
        (("--hub", "ftp://localhost"), "is not the address of a hub; write https://HOST:PORT"),
        (("--hub", "https://localhost", "--fingerprint", "abc"), "the fingerprint is not a SHA-256: 64 hexadecimal digits"),
    ],
)
def test_what_is_typed_wrong(tmp_path: Path, words: tuple[str, ...], reason: str) -> None:
    done = Agent(tmp_path, Hub(), "").verb("join", "--token", "t", "--state", str(tmp_path / "state"), *words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert reason in done.stderr


def test_a_host_that_is_not_enrolled(tmp_path: Path) -> None:
    done = Agent(tmp_path, Hub(), "").verb("run", "--state", str(tmp_path / "state"))
    assert (done.returncode, "is not enrolled" in done.stderr) == (2, True)


def test_the_version(tmp_path: Path) -> None:
    assert Agent(tmp_path, Hub(), "").verb("--version").stdout == "0.1.0\n"


def _certificate(folder: Path) -> tuple[Any, str]:
    """What wraps a server's socket, and the fingerprint of its certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hub")])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = made.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
    certificate = made.sign(key, hashes.SHA256())
    private = serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption())
    (folder / "pem").write_bytes(pem + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "pem")
    shown = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
    return lambda server: context.wrap_socket(server, server_side=True), shown


def test_tls_holds_to_the_fingerprint_before_anything_is_sent(hub: Hub, tmp_path: Path) -> None:
    wrap, fingerprint = _certificate(tmp_path)
    with serve(hub, wrap=wrap) as url:
        agent = Agent(tmp_path / "state", hub, url)
        wrong = agent.join("--fingerprint", "0" * 64)
        assert (wrong.returncode, f"its SHA-256 is {fingerprint}" in wrong.stderr) == (1, True)
        assert agent.join().returncode == 1  # nor is it trusted by this machine
        assert not hub.joins
        assert agent.join("--fingerprint", ":".join(fingerprint[i : i + 2] for i in range(0, 64, 2)).upper()).returncode == 0
        try:
            agent.start()
            assert hub.wait_for(hub.command("echo out"), "done").stdout == b"out\n"
        finally:
            agent.end()


def test_http_where_there_is_tls_and_the_reverse_is_said_with_what_to_do(hub: Hub, tmp_path: Path) -> None:
    wrap, _ = _certificate(tmp_path)
    anew = "`fleetflow hub` shows the hub's address, and `join --replace` enrols this host there\n"
    for wrapped, scheme, said in ((wrap, "http", "speaks TLS now, and not http"), (None, "https", "does not speak TLS, as https does")):
        with serve(hub, wrap=wrapped) as url:
            done = Agent(tmp_path / scheme, hub, f"{scheme}://{url.partition('://')[2]}").join()
        assert (done.returncode, done.stderr) == (
            1,
            f"fleetflow-agent: the hub cannot be reached: {url.partition('://')[2]} {said}; {anew}",
        )
    with serve(hub, wrap=wrap) as url:
        assert "with --fingerprint its SHA-256 is all that counts" in Agent(tmp_path / "untrusted", hub, url).join().stderr


def test_heartbeats_bring_telemetry_and_the_first_one_facts(host: Agent) -> None:
    host.start()
    until(lambda: len(host.hub.syncs) >= 2)
    first, second = host.hub.syncs[:2]
    assert {"facts", "known", "machine"} <= set(first)
    assert not {"facts", "known"} & set(second)
    assert set(second["telemetry"]) == {"load1", "cpus", "mem_total", "mem_free", "disk_free", "uptime", "running"}
    assert (first["wait"], second["wait"], second["free"]) == (0, 30, 4)
    assert first["session"] == second["session"]


def test_a_hub_that_has_forgotten_the_session_is_told_again(host: Agent) -> None:
    host.start()
    until(lambda: host.hub.known)
    host.hub.order(tell=True)
    until(lambda: len(host.hub.known) == 2, 30)


def test_an_answer_that_got_lost_on_an_open_connection_is_asked_for_again(host: Agent) -> None:
    host.start()
    host.hub.wait_for(host.hub.command("true"), "done")
    assert not any("again" in message for message in host.hub.syncs)
    host.hub.drops = 1
    host.hub.wait_for(host.hub.command("true"), "done")
    assert any(message.get("again") for message in host.hub.syncs if message.keys() & {"held", "done"})


def test_a_short_command_needs_no_second_connection(host: Agent) -> None:
    host.start()

    def is_told_by_polls() -> bool:
        first = len(host.hub.syncs)
        host.hub.wait_for(host.hub.command("true"), "done")
        return all("wait" in message for message in host.hub.syncs[first:])

    until(is_told_by_polls, 60)  # a busy machine may need longer for one than a poll waits


def test_what_ends_while_a_poll_is_held_is_told_by_a_second_connection(host: Agent, tmp_path: Path) -> None:
    host.start()
    attempt = host.hub.command(f"until [ -e {tmp_path}/go ]; do sleep 0.02; done")
    host.hub.wait_for(attempt, "accepted")
    until(lambda: not [message for message in host.hub.syncs if "wait" in message][-1].keys() & {"held", "accepted"}, what="a held poll")
    (tmp_path / "go").touch()
    host.hub.wait_for(attempt, "done")
    (end,) = (message for message in host.hub.syncs if "done" in message)
    assert "wait" not in end


def test_an_idle_agent_uses_no_processor_and_little_memory(host: Agent) -> None:
    host.start()
    host.hub.wait_for(host.hub.command("true"), "done")
    until(lambda: not host.keepers())
    before, began = _ticks(host.pid), time.monotonic()
    until(lambda: time.monotonic() > began + 1)
    assert _ticks(host.pid) - before <= 1
    resident = int(Path(f"/proc/{host.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert resident < 30 * 1024 * 1024


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return int(fields[11]) + int(fields[12])


def test_an_agent_that_its_hub_does_not_know_says_so_and_asks_again(host: Agent) -> None:
    host.start()
    until(lambda: len(host.hub.syncs) == 2)  # its poll is held: what is ordered is the answer to that one
    host.hub.credential = "d" * 64
    host.hub.order(tell=True)
    until(lambda: "the hub says: unknown or revoked" in host.words)
    host.hub.credential = CREDENTIAL
    until(lambda: len(host.hub.known) == 2)


def test_a_revoked_agent_ends_and_can_be_started_when_it_has_joined_anew(host: Agent) -> None:
    host.hub.error = (403, {"error": "this agent was revoked", "state": "revoked"})
    host.start()
    assert host.process
    assert host.process.wait(20) == 3
    assert "stopped, since the hub refuses this agent for good" in host.words
    said = host.verb("status", "--state", str(host.state))
    assert (said.returncode, said.stdout.splitlines()[1].partition(";")[0]) == (1, "revoked: `join --replace` enrols this host anew")
    host.hub.error = None
    assert host.join("--replace").returncode == 0
    host.start()
    until(lambda: host.hub.known, 20)


def test_a_service_goes_on_as_the_agent_that_its_host_has_become(host: Agent, tmp_path: Path) -> None:
    attempt = host.start().hub.command(f"echo; until [ -e {tmp_path}/go ]; do sleep 0.05; done")
    until(lambda: host.hub[attempt].stdout)
    host.hub.error = (403, {"error": "this agent was revoked", "state": "revoked"})  # its hub hears of the join first
    host.hub.order()
    until(lambda: "this agent was revoked" in host.words)
    host.hub.credential, host.hub.error = "e" * 64, None
    assert host.join("--replace").returncode == 0
    until(lambda: len(host.hub.known) == 2, 20)
    assert host.hub.known[1] == [{"id": attempt, "state": "running"}]
    (tmp_path / "go").touch()
    host.hub.wait_for(attempt, "done")
    assert host.process
    assert host.process.poll() is None


def test_a_pending_agent_lets_its_hub_hold_its_calls_and_a_refused_one_stops(host: Agent) -> None:
    host.hub.error = (403, {"error": "pending", "state": "pending", "retry": 0.1})
    host.start()
    until(lambda: len(host.hub.syncs) >= 3)
    assert host.hub.patience[:3] == ["", "wait=30", "wait=30"], "first it is told that it waits"
    said = host.verb("status", "--state", str(host.state))
    assert said.stdout.splitlines()[1].startswith("pending: it gets no commands before `fleetflow agent approve web1`")
    host.hub.error = (403, {"error": "refused"})
    assert host.process
    assert host.process.wait(10) == 3
    assert "stopped" in host.words


class RenewingHub(Hub):
    """Lets the agent take a new credential, while a report that came with the old one still waits for its answer."""

    def __init__(self, state: Path) -> None:
        super().__init__()
        self.state = state
        self.has_report = threading.Event()
        self.is_renewed = threading.Event()

    def sync(self, message: Message, token: str, lives: Callable[[], bool], patience: str = "") -> tuple[int, Message] | None:
        old = token == f"Bearer {AGENT}.{CREDENTIAL}"
        if old and "wait" not in message:
            self.has_report.set()
            self.is_renewed.wait(10)
            return 401, {"error": "this credential has been replaced"}
        if old and "next" in message:
            self.credential = json.loads((self.state / "identity").read_text())["next"]
            return 200, {"v": 1, "poll": 0, "taken": message["next"]}
        if not old:
            self.is_renewed.set()
        return super().sync(message, token, lives, patience)


def test_a_report_that_was_under_way_with_the_old_credential_is_said_again_at_once(tmp_path: Path) -> None:
    hub = RenewingHub(tmp_path / "state")
    with serve(hub) as url, enrolled(tmp_path, hub, url) as host:
        host.start()
        attempt = hub.command("sleep 0.5; echo out")  # longer than a poll waits for what is to be told
        assert hub.has_report.wait(10)
        hub.order(rotate=True)
        assert hub.wait_for(attempt, "done").stdout == b"out\n"
        kept = json.loads((host.state / "identity").read_text())
        assert (kept["credential"], kept["generation"], "next" in kept) == (hub.credential, 2, False)


class LosingHub(Hub):
    """Loses the answer to the first report of an end by a second connection, and has a new command at that moment."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = ""
        self.agains: list[bool] = []  # of each report of that end

    def sync(self, message: Message, token: str, lives: Callable[[], bool], patience: str = "") -> tuple[int, Message] | None:
        ends = [end["id"] for end in message.get("done", ())]
        if "wait" not in message and ends and not self.lost:
            self.lost = ends[0]
        if self.lost in ends:
            self.agains.append(message.get("again") is True)
        answer = super().sync(message, token, lives, patience)
        if len(self.agains) == 1 and self.lost in ends:
            self.command("true")
            return None
        return answer


def test_an_end_whose_answer_got_lost_is_told_again_as_such_by_whatever_connection(tmp_path: Path) -> None:
    hub = LosingHub()
    with serve(hub) as url, enrolled(tmp_path, hub, url) as host:
        host.start()
        hub.command("sleep 0.5")
        until(lambda: len(hub.agains) >= 2, 20)
        assert hub.agains[:2] == [False, True]


def test_a_copy_becomes_who_the_hub_says(host: Agent) -> None:
    host.start()
    until(lambda: host.hub.known)
    host.hub.order(identity={"agent": "not an id", "name": "web1-2", "generation": 1})
    until(lambda: not host.hub.orders)
    other = str(uuid.uuid4())
    host.hub.order(identity={"agent": other, "name": "web1-2", "generation": 1})
    until(lambda: f"from now on this is web1-2 ({other})" in host.words)
    kept = json.loads((host.state / "identity").read_text())
    assert (kept["agent"], kept["name"], kept["credential"], kept["hub"]) == (other, "web1-2", CREDENTIAL, host.url)


def test_two_agents_never_share_a_folder(host: Agent) -> None:
    host.start()
    until(lambda: host.hub.known)
    other = host.verb("run", "--state", str(host.state))
    assert (other.returncode, other.stderr) == (
        2,
        f"fleetflow-agent: the service of {host.state} runs already, as process {host.pid}; `stop` ends it\n",
    )
    again = host.verb("start", "--state", str(host.state))
    assert (again.returncode, again.stdout) == (0, f"it runs already, as process {host.pid}\n")


def test_who_leaves_ends_the_service_and_its_commands_and_keeps_nothing(host: Agent, tmp_path: Path) -> None:
    host.start()
    attempt = host.hub.command(f"trap '' TERM; nohup setsid sleep 1000 & touch {tmp_path}/began; wait; wait")
    until((tmp_path / "began").exists)
    (host.state / "theirs").touch()
    assert host.verb("leave", "--state", str(host.state)).returncode == 0
    assert host.process
    assert host.process.wait(10) == 0
    assert not host.keepers(attempt)
    assert not marked(Attempt(id=uuid.UUID(attempt)))
    assert [path.name for path in host.state.iterdir()] == ["theirs"]


def test_what_does_not_start_says_why(tmp_path: Path) -> None:
    host = Agent(tmp_path / "state", Hub(), "")
    for _ in range(2):
        done = host.verb("start", "--state", str(host.state))
        assert (done.returncode, done.stderr.startswith("fleetflow-agent: it does not start: this host is not enrolled")) == (2, True)
    assert host.verb("stop", "--state", str(host.state)).returncode == 0


def test_status_says_how_it_stands_with_its_hub_and_what_it_holds(host: Agent, tmp_path: Path) -> None:
    def status() -> tuple[int, list[str]]:
        said = host.verb("status", "--state", str(host.state))
        return said.returncode, [re.sub(r"\b\d+ s\b", "N s", line) for line in said.stdout.splitlines()]

    off = "the service does not run, and nothing is told: `start` starts it, or its unit of systemd (version 0.1.0)"
    who = f"web1 ({AGENT}) at {host.url}"
    assert status() == (1, [who, "the hub has not answered yet", off, "0 running, 0 held, 0 ended that the hub has not acknowledged"])
    host.hub.keeps = True
    host.start()
    done = host.hub.command("exit 3")
    host.hub.wait_for(done, "done")
    running = host.hub.command(f"echo; until [ -e {tmp_path}/go ]; do sleep 0.05; done")
    until(lambda: host.hub[running].stdout)
    on = f"the service runs, as process {host.pid}, version 0.1.0"
    held = ["1 running, 0 held, 1 ended that the hub has not acknowledged", f"{done} ended: exit 3, N s ago", f"{running} running for N s"]
    assert status() == (0, [who, "approved; the hub answered N s ago", on, *held])
    with host.hub.changed:
        host.hub.is_away = True
        host.hub.changed.notify_all()
    until(lambda: "cannot be reached" in status()[1][1], 20)
    assert status()[1][1].startswith("approved; the hub answered N s ago; the hub cannot be reached: no answer: ")
    host.hub.is_away = False
    (tmp_path / "go").touch()
    host.hub.wait_for(running, "done")


def test_a_hub_that_talks_nonsense_changes_nothing(host: Agent) -> None:
    host.start()
    host.hub.order(commands=[None, 1, {"id": "../../etc"}, {"id": 5}, {}], cancels=[None, {}, "x"], go=[[], "x"], acks=[None, {}], ask=[3])
    assert host.hub.wait_for(host.hub.command("true"), "done").done
    assert (host.state / "spool").is_dir()


@pytest.mark.parametrize("extra", [{"host": "x"}])
def test_an_agent_finds_the_hub_again_on_a_new_connection(hub: Hub, url: str, tmp_path: Path, extra: dict[str, str]) -> None:
    with enrolled(tmp_path, hub, url) as host:
        hub.error = (503, {"error": "busy", "retry": 0.1} | extra)
        host.start()
        until(lambda: len(hub.syncs) >= 3)
        hub.error = None
        assert hub.wait_for(hub.command("true"), "done").done

"""A hub that more than this machine may reach: it speaks TLS, agents know it by its certificate, and its metrics need a token.

It was told to listen beyond loopback; the socket that it was given is on loopback all the same.
"""

import json
import socket
import ssl
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from executors.agent.executor import ByAgent
from models.access import Access
from models.tokens import Role, Scope, Tokens
from models.values import Attempt, Command, Result
from tests.executors.sinks import Collector
from tests.servers.certificates import Issuer
from tests.servers.hub import TESTS, Hub, RealAgent, run_agent, run_hub
from tests.until import until


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with run_hub(tmp_path_factory.mktemp("hub"), FLEETFLOW_HUB_HOST="0.0.0.0") as running:
        yield running


def get(hub: Hub, path: str, **headers: str) -> httpx.Response:
    """As somebody who trusts the hub's own certificate, by name."""
    trusted = ssl.create_default_context(cafile=hub.home / "hub.crt")
    return httpx.get(f"https://localhost:{hub.port}{path}", headers=headers, verify=trusted, trust_env=False, timeout=10)


async def test_an_agent_runs_a_command_over_the_hubs_own_certificate(hub: Hub, executor: ByAgent, tmp_path: Path) -> None:
    assert (hub.home / "hub.key").stat().st_mode & 0o777 == 0o600
    with run_agent(hub, tmp_path) as agent:
        sink = Collector()
        assert await executor.run(Attempt(id=uuid.uuid4()), agent.host, Command(script="echo hi"), sink) == Result(exit_code=0)
        assert sink.stdout == b"hi\n"


def test_a_hub_with_another_fingerprint_never_gets_the_token(hub: Hub, tmp_path: Path) -> None:
    token = hub.token(uses=1)
    agent = RealAgent(tmp_path / "web2", "web2")
    refused = agent.try_to_join(hub.url, token, "--fingerprint", "0" * 64)
    assert (refused.returncode, hub.fingerprint in refused.stderr.decode()) == (1, True)
    assert agent.try_to_join(hub.url, token).returncode == 1, "nobody vouches for it"
    agent.join(hub.url, token, "--fingerprint", hub.fingerprint)


def test_turning_tls_on_cuts_off_who_joined_by_http_which_is_said_and_mended_on_the_host(tmp_path: Path) -> None:
    with run_hub(tmp_path / "plain") as hub, run_agent(hub, tmp_path) as agent:
        until(lambda: standing(agent) == ("approved", ""), 20)
        hub.stop()
        hub.settings["FLEETFLOW_HUB_TLS"] = "on"
        hub.start()
        assert "agents that joined by http:// are cut off, since this hub speaks https now" in hub.log
        until(lambda: "speaks TLS now, and not http" in standing(agent)[1], 40)
        agent.join(hub.url, hub.token(), "--fingerprint", hub.fingerprint, "--replace")
        until(lambda: standing(agent) == ("approved", ""), 40, "the agent, which has not been started anew")


def standing(agent: RealAgent) -> tuple[str, str]:
    try:
        told = json.loads((agent.folder / "standing").read_text())
    except FileNotFoundError:
        return "", ""
    return told["state"], told["trouble"]


def test_what_is_no_tls_or_an_old_one_does_no_harm(hub: Hub) -> None:
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{hub.port}/healthz", trust_env=False, timeout=5)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", hub.port)) as wire, pytest.raises((ssl.SSLError, ConnectionError)):
        old.wrap_socket(wire)
    silent = socket.create_connection(("127.0.0.1", hub.port))
    assert get(hub, "/healthz").status_code == 200
    silent.close()
    assert "Traceback" not in hub.log


def test_probes_are_open_and_metrics_are_for_those_who_may_see_everything(hub: Hub) -> None:
    access = Access.open(hub.database)
    tokens = Tokens(access)
    viewer = tokens.create("prometheus", Role.VIEWER, TESTS)
    scoped = tokens.create("webhook", Role.OPERATOR, TESTS, scope=Scope("@web", "true"))
    assert [get(hub, path).status_code for path in ("/healthz", "/readyz", "/metrics")] == [200, 200, 401]
    asked = [get(hub, "/metrics", Authorization=f"Bearer {token}") for token in (viewer, scoped, "fleetflow_" + "0" * 64, "x")]
    assert [answer.status_code for answer in asked] == [200, 403, 401, 401]
    assert "fleetflow_agents" in asked[0].text
    assert set(asked[2].json()) == {"error"}
    tokens.revoke("prometheus", TESTS)
    assert get(hub, "/metrics", Authorization=f"Bearer {viewer}").status_code == 401
    access.close()


def test_a_given_certificate_needs_no_fingerprint_and_its_own_is_kept(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, issuer = hub.fingerprint, Issuer(tmp_path)
    hub.stop()
    hub.settings["FLEETFLOW_HUB_CERT"] = str(issuer.issue()[0])
    hub.start()
    monkeypatch.setenv("SSL_CERT_FILE", str(issuer.trust))
    RealAgent(tmp_path / "web3", "web3").join(f"https://localhost:{hub.port}", hub.token())
    hub.stop()
    del hub.settings["FLEETFLOW_HUB_CERT"]
    hub.start()
    assert hub.fingerprint == own

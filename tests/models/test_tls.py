"""When the hub speaks TLS, at which address, and what is said of a certificate that it cannot use."""

import hashlib
import socket
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from models import address, tls
from models.errors import SettingsError
from models.settings import Settings
from tests.servers.certificates import Issuer


@pytest.fixture
def issuer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Issuer:
    monkeypatch.setenv("FLEETFLOW_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return Issuer(tmp_path)


@pytest.mark.parametrize(
    ("given", "url", "is_private"),
    [
        ({}, "http://127.0.0.1:7", True),
        ({"hub_host": "::1"}, "http://[::1]:7", True),
        ({"hub_tls": "on"}, "https://127.0.0.1:7", True),
        ({"hub_cert": "x"}, "https://127.0.0.1:7", True),
        ({"hub_cert": "x", "hub_tls": "off"}, "http://127.0.0.1:7", True),
        ({"hub_host": "192.0.2.1"}, "https://192.0.2.1:7", False),
        ({"hub_host": "0.0.0.0"}, f"https://{socket.gethostname()}:7", False),
        ({"hub_host": "::"}, f"https://{socket.gethostname()}:7", False),
        ({"hub_url": "https://hub.example.com:8443/"}, "https://hub.example.com:8443", False),
        ({"hub_url": "http://localhost:9"}, "http://localhost:9", True),
    ],
)
def test_where_hosts_reach_the_hub(given: dict[str, str], url: str, is_private: bool) -> None:
    settings = Settings(**given)
    assert (address.url(settings, 7), address.is_private(settings)) == (url, is_private)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_beyond_loopback_it_speaks_tls_or_not_at_all(host: str) -> None:
    with pytest.raises(SettingsError, match=f"hub_tls: is off, and hub_host is {host}"):
        tls.open_context(Settings(hub_host=host, hub_tls="off"))


def test_its_own_certificate_has_every_name_and_stays(issuer: Issuer) -> None:
    settings = Settings(hub_host="0.0.0.0", hub_url="https://hub.example.com")
    assert tls.fingerprint(settings) is None
    context = tls.open_context(settings)
    assert context is not None
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    files = [settings.home / "hub.crt", settings.home / "hub.key"]
    before = [file.read_bytes() for file in files]
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600] * 2
    assert tls.fingerprint(settings) == hashlib.sha256(ssl.PEM_cert_to_DER_cert(before[0].decode())).hexdigest()
    names = x509.load_pem_x509_certificate(before[0]).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"localhost", socket.gethostname(), "hub.example.com"} <= set(names.get_values_for_type(x509.DNSName))
    assert {"127.0.0.1", "::1"} <= {str(one) for one in names.get_values_for_type(x509.IPAddress)}
    tls.open_context(settings)
    assert [file.read_bytes() for file in files] == before
    files[0].unlink()
    tls.open_context(settings)
    assert files[1].read_bytes() == before[1], "a certificate that was lost is made anew for the same key"
    assert {path.name for path in settings.home.iterdir()} == {"hub.crt", "hub.key"}


def test_a_given_certificate_is_used(issuer: Issuer) -> None:
    certificate, key = issuer.issue()
    assert tls.open_context(Settings(hub_cert=certificate, hub_key=key))
    assert tls.open_context(Settings(hub_cert=certificate)), "the key may stand in the same file"
    assert tls.open_context(Settings(hub_cert=certificate, hub_tls="off")) is None
    first, _, _ = certificate.read_text().partition("-----BEGIN PRIVATE")
    assert tls.fingerprint(Settings(hub_cert=certificate)) == hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).hexdigest()


def test_what_cannot_be_used_is_said_in_one_line(issuer: Issuer, tmp_path: Path) -> None:
    certificate, key = issuer.issue()
    other, _ = issuer.issue("other")
    expired, _ = issuer.issue("expired", -2, -1)
    early, _ = issuer.issue("early", 1, 2)
    _, sealed = issuer.issue("sealed", passphrase=b"secret")
    (tmp_path / "empty").touch()
    for given, reason in (
        ({"hub_cert": expired}, f"hub_cert: {expired} expired on 2"),
        ({"hub_cert": early}, f"hub_cert: {early} is not valid before 2"),
        ({"hub_cert": tmp_path / "none"}, f"{tmp_path / 'none'} cannot be read: No such file"),
        ({"hub_cert": tmp_path}, f"{tmp_path} cannot be read: Is a directory"),
        ({"hub_cert": tmp_path / "empty"}, f"{tmp_path / 'empty'} holds no certificate in PEM"),
        ({"hub_cert": other, "hub_key": key}, f"hub_key: {key} is not the key of {other}"),
        ({"hub_cert": certificate, "hub_key": sealed}, f"{sealed} has a passphrase"),
        ({"hub_cert": certificate, "hub_key": tmp_path / "empty"}, f"{tmp_path / 'empty'} holds no private key"),
        ({"hub_cert": certificate, "hub_key": tmp_path / "none"}, f"{tmp_path / 'none'} cannot be read: No such file"),
        ({"hub_key": key, "hub_tls": "on"}, "hub_key: is the key of no certificate"),
    ):
        with pytest.raises(SettingsError) as caught:
            tls.check(Settings(**given))
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_hub_that_is_started_again_goes_on_with_a_certificate_that_has_expired(issuer: Issuer) -> None:
    assert tls.open_context(Settings(hub_cert=issuer.issue("expired", -2, -1)[0]))


@pytest.mark.parametrize("name", ["hub.crt", "hub.key"])
def test_its_own_files_that_are_broken_are_named(issuer: Issuer, name: str) -> None:
    settings = Settings(hub_tls="on")
    (settings.home / name).write_text("nonsense")
    with pytest.raises(SettingsError, match=name):
        tls.open_context(settings)

"""Where the hub listens, how hosts reach it, and whether it speaks TLS there."""

import ipaddress
import socket
from urllib.parse import urlsplit

from models.errors import SettingsError
from models.names import is_loopback, join
from models.settings import Settings, source
from models.values import HubTls


def is_private(settings: Settings) -> bool:
    """Whether nobody but this machine is meant to reach the hub: a proxy may stand before one that listens on loopback."""
    shown = urlsplit(settings.hub_url).hostname if settings.hub_url else None
    return is_loopback(settings.hub_host) and (shown is None or is_loopback(shown))


def speaks_tls(settings: Settings) -> bool:
    """Whether the hub speaks TLS; raises `SettingsError` where it must and is not to."""
    is_near = is_loopback(settings.hub_host)
    if settings.hub_tls is HubTls.OFF:
        if not is_near:
            raise SettingsError(source("hub_tls"), f"is off, and hub_host is {settings.hub_host}; beyond loopback the hub speaks TLS alone")
        return False
    return settings.hub_tls is HubTls.ON or not is_near or settings.hub_cert is not None


def url(settings: Settings, port: int) -> str:
    """The address of the hub that listens at this port, as hosts reach it."""
    if settings.hub_url:
        return settings.hub_url
    host = socket.gethostname() if ipaddress.ip_address(settings.hub_host).is_unspecified else settings.hub_host
    return f"{'https' if speaks_tls(settings) else 'http'}://{join(host, port=port)}"

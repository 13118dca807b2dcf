"""Whether an agent is there, by the time that it was last seen."""

from enum import StrEnum


class Presence(StrEnum):
    """How long ago an agent was last seen; it polls each 30 s."""

    ONLINE = "online"
    STALE = "stale"
    OFFLINE = "offline"
    NEVER = "never seen"


LIMITS = ((Presence.ONLINE, 90.0), (Presence.STALE, 300.0))  # seconds within which it was seen, at most
OFFLINE_AFTER = LIMITS[-1][1]


def presence(seen_at: float | None, now: float) -> Presence:
    """Both are seconds since the epoch."""
    if seen_at is None:
        return Presence.NEVER
    return next((found for found, seconds in LIMITS if now - seen_at < seconds), Presence.OFFLINE)

"""What a credential proves: that somebody is an agent, or was one."""

import hmac
from enum import StrEnum

from models.agents import Agent


class Proof(StrEnum):
    """Which of an agent's credentials somebody has."""

    CURRENT = "current"
    NEXT = "next"  # made, stored here, and not used until now
    FORMER = "former"  # replaced: who has it is a copy, or late


def prove(agent: Agent, copies: list[Agent], shown: str) -> Proof | None:
    """What the SHA-256 of a credential proves about an agent; a copy of it has the one that it came with."""
    if hmac.compare_digest(agent.digest, shown):
        return Proof.CURRENT
    former = [(Proof.FORMER, copy.digest) for copy in copies]
    known = [(Proof.NEXT, agent.next_digest), (Proof.FORMER, agent.former_digest), *former]
    return next((proof for proof, digest in known if digest and hmac.compare_digest(digest, shown)), None)

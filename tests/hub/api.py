"""What tests of the API share."""

import json
from collections.abc import Iterator
from typing import Any

import httpx

from models.access import Access
from models.store import Store
from models.tokens import Role, Scope, Tokens
from tests.servers.hub import TESTS, Hub


class Api:
    """A hub's API, in the name of one token for each role."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.store = Store.open(hub.database)
        self.tokens = Tokens(Access.open(hub.database))
        self.client = httpx.Client(base_url=f"{hub.url}/api/v1", timeout=60, trust_env=False)
        self.clear = {role: self.tokens.create(f"the-{role}", role, TESTS) for role in Role}

    def __call__(self, method: str, path: str, role: Role | str = Role.ADMIN, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.clear[role] if isinstance(role, Role) else role}"} | more.pop("headers", {})
        return self.client.request(method, path, headers=headers, **more)

    def scoped(self, name: str, target: str, command: str) -> str:
        return self.tokens.create(name, Role.OPERATOR, TESTS, scope=Scope(target, command))

    def close(self) -> None:
        self.client.close()
        self.store.close()


def events(response: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events of a stream, until it ends."""
    kind = ""
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)

"""A stack is an API and a database: the worker writes on its work pool, in the API, which database it uses."""

_MARK = "fleetflow database "


def describe(database: str) -> str:
    """The description of a work pool whose worker uses the database with this UUID."""
    return f"Runs commands on fleets of hosts, inside a warm worker. {_MARK}{database}"


def database_of(description: str) -> str | None:
    """The UUID of the database that a work pool's description names."""
    _, found, rest = description.partition(_MARK)
    return rest.split()[0] if found and rest.split() else None

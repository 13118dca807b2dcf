"""What hubs leave for workers to tell Prefect."""

from models import news, workers
from models.access import Access
from models.news import Kind, Newsroom


def test_one_worker_tells_at_a_time_and_another_goes_on_when_it_is_dead(access: Access) -> None:
    with access.writing() as connection:
        for owner in ("one", "other"):
            workers.grant(connection, owner, 60)
        news.write(connection, Kind.OFFLINE, ["web1"])
        news.write(connection, Kind.OFFLINE, [])
        news.write(connection, Kind.ONLINE, ["web1"])
    one, other = Newsroom(access, "one"), Newsroom(access, "other")
    (first,) = one.take(1)
    assert (first.kind, list(first.about)) == (Kind.OFFLINE, ["web1"])
    assert other.take(9) == [], "or it might tell the second before the first"
    assert one.take(1) == [first], "not done yet"
    one.done(first)
    (second,) = one.take(9)
    with access.writing() as connection:
        workers.leave(connection, "one")
    assert other.take(9) == [second], "which nobody has told, and by the same UUID"
    other.done(second)
    assert other.take(9) == []

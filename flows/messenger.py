"""Tells Prefect what happened at the hubs: agents that go and come; results that came late, and correct what artifacts show."""

import asyncio
import logging
from typing import TYPE_CHECKING

from httpx import HTTPStatusError
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import PrefectException

from flows.patience import is_outage

if TYPE_CHECKING:  # SQLAlchemy, for which every prefect command would pay
    from models.news import News, Newsroom
    from models.store import Store

log = logging.getLogger(__name__)

_LOOK = 5.0  # seconds
_AT_ONCE = 5  # news of one look: after a long silence there may be thousands, and Prefect's server has more to do


class Messenger:
    """Of one worker. News stay where they are until Prefect has taken them."""

    def __init__(self, client: PrefectClient, store: "Store", newsroom: "Newsroom", hub_url: str | None) -> None:
        self._client = client
        self._store = store
        self._newsroom = newsroom
        self._hub_url = hub_url

    async def work(self) -> None:
        """Look for ever."""
        while True:
            try:
                for news in await asyncio.to_thread(self._newsroom.take, _AT_ONCE):
                    await self._tell(news)
                    await asyncio.to_thread(self._newsroom.done, news)
            except Exception as error:  # noqa: BLE001 - Prefect or the database is away: the next look may get through
                log.warning("cannot tell Prefect what happened at the hub: %r", error)
            await asyncio.sleep(_LOOK)

    async def _tell(self, news: "News") -> None:
        try:
            await self._send(news)
        except (HTTPStatusError, PrefectException) as error:
            if is_outage(error):
                raise
            log.warning("Prefect does not take what happened (%s %s): %r", news.kind, ", ".join(news.about)[:200], error)

    async def _send(self, news: "News") -> None:
        from flows import artifacts, events  # as under TYPE_CHECKING
        from models.news import Kind

        if news.kind is Kind.CORRECTED:
            for task in news.about:
                await artifacts.renew(self._client, self._store, int(task), self._hub_url)
            return
        told = await asyncio.to_thread(events.agents_turned, news)  # to fold thousands of names takes its time
        sent = [event.model_dump(mode="json") for event in told]
        # Not by emit_event: nobody would know whether it got there.
        await self._client.request("POST", "/events", json=sent)

"""Clients of realtime-py, and what their channels hear, to be awaited one by one."""

import asyncio
import logging
import unittest

from realtime import AsyncRealtimeClient, RealtimeSubscribeStates

LIMIT_S = 10

# What it complains about is what the tests are for.
logging.getLogger("realtime").addHandler(logging.NullHandler())
# Tests run in asyncio's debug mode, which tells when a step is slow; the first HTTP request loads certificates.
logging.getLogger("asyncio").setLevel(logging.ERROR)


class Inbox:
    """Things that happen, in order."""

    def __init__(self, name):
        self._name = name
        self._arrived = asyncio.Queue()

    def push(self, thing):
        self._arrived.put_nowait(thing)

    @property
    def size(self):
        """How many things have not been taken."""
        return self._arrived.qsize()

    async def next(self, limit_s=LIMIT_S):
        """The oldest thing not taken yet; fails when none comes within the limit."""
        try:
            return await asyncio.wait_for(self._arrived.get(), limit_s)
        except TimeoutError:
            raise AssertionError(f"no {self._name} within {limit_s} s") from None

    async def until(self, passes, limit_s=LIMIT_S):
        """The next thing that passes; what comes before it is dropped."""
        async with asyncio.timeout(limit_s):
            while True:
                thing = await self.next(limit_s)
                if passes(thing):
                    return thing


class Heard:
    """A channel and its inboxes."""

    def __init__(self, client, topic, private=False, broadcast=None):
        self.broadcasts = Inbox(f"broadcast on {topic}")
        self.changes = Inbox(f"change on {topic}")
        self.systems = Inbox(f"system message on {topic}")
        self.statuses = Inbox(f"status of {topic}")
        presence = {"key": "", "enabled": False}
        config = {"broadcast": broadcast or {}, "presence": presence, "private": private}
        self.channel = client.channel(topic, {"config": config})
        self.channel.on_broadcast("*", self.broadcasts.push)
        self.channel.on_system(self.systems.push)

    async def subscribe(self):
        """Asks to join; returns how that went first, with the error."""
        await self.channel.subscribe(lambda status, error: self.statuses.push((status, error)))
        return await self.statuses.next()


class ListeningTestCase(unittest.IsolatedAsyncioTestCase):
    """Tests of a server that is in `self.walcast`; their clients are closed when they are over."""

    def connect(self, token=None, apikey=None):
        """A client with the anonymous key, that connects when it needs to. `token` is that of a signed-in user."""
        client = AsyncRealtimeClient(self.walcast.realtime_url, apikey or self.walcast.anon_key)
        if token:
            client.access_token = token
        self.addAsyncCleanup(client.close)
        return client

    async def join(self, topic, client=None, private=False, broadcast=None):
        """A joined channel of a client, which is a new one unless given; `broadcast` is that of its options."""
        heard = Heard(client or self.connect(), topic, private, broadcast)
        self.assertEqual(await heard.subscribe(), (RealtimeSubscribeStates.SUBSCRIBED, None))
        return heard

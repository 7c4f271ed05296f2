"""Presence: what realtime-py computes from the state and the diffs it is told is what is."""

import asyncio
import unittest

from realtime import RealtimeSubscribeStates

from listening import LIMIT_S, Inbox, ListeningTestCase
from walcast import Walcast


def setUpModule():
    ListeningTestCase.walcast = Walcast()
    unittest.addModuleCleanup(ListeningTestCase.walcast.stop)


class Member:
    """A channel with presence."""

    def __init__(self, client, topic, key):
        self._synced = asyncio.Event()
        self.joins = Inbox(f"join on {topic}")
        self.leaves = Inbox(f"leave on {topic}")
        config = {"broadcast": {}, "presence": {"key": key, "enabled": True}, "private": False}
        self.channel = client.channel(topic, {"config": config})
        self.channel.on_presence_sync(self._synced.set)
        self.channel.on_presence_join(lambda key, _before, new: self.joins.push((key, new)))
        self.channel.on_presence_leave(lambda key, _after, left: self.leaves.push((key, left)))

    def present(self):
        """What is tracked, by key, without references."""
        return {
            key: [{name: value for name, value in meta.items() if name != "presence_ref"} for meta in metas]
            for key, metas in self.channel.presence_state().items()
        }

    async def until_present(self, expected):
        """Waits until it knows that this is present."""
        async with asyncio.timeout(LIMIT_S):
            while self.present() != expected:
                self._synced.clear()
                await self._synced.wait()


class Presence(ListeningTestCase):
    async def enter(self, topic, key):
        member = Member(self.connect(), topic, key)
        statuses = Inbox(f"status of {topic}")
        await member.channel.subscribe(lambda status, error: statuses.push((status, error)))
        self.assertEqual(await statuses.next(), (RealtimeSubscribeStates.SUBSCRIBED, None))
        return member

    async def test_everybody_knows_who_comes_changes_and_goes(self):
        ada = await self.enter("room", "ada")
        await ada.channel.track({"mood": "fine"})
        await ada.until_present({"ada": [{"mood": "fine"}]})
        ben = await self.enter("room", "ben")
        await ben.until_present({"ada": [{"mood": "fine"}]})
        await ben.channel.track({"n": 1})
        await ada.until_present({"ada": [{"mood": "fine"}], "ben": [{"n": 1}]})
        await ada.channel.track({"mood": "better"})
        await ben.until_present({"ada": [{"mood": "better"}], "ben": [{"n": 1}]})
        await ada.channel.untrack()
        await ben.until_present({"ben": [{"n": 1}]})
        await ben.channel.unsubscribe()
        await ada.until_present({})

    async def test_joins_and_leaves_are_told_with_what_was_tracked(self):
        witness = await self.enter("events", "witness")
        ada = await self.enter("events", "ada")
        await ada.channel.track({"n": 1})
        key, joined = await witness.joins.next()
        self.assertEqual((key, [meta["n"] for meta in joined]), ("ada", [1]))
        await ada.channel.untrack()
        self.assertEqual(await witness.leaves.next(), ("ada", joined))

    async def test_a_client_that_is_gone_is_not_present(self):
        witness = await self.enter("gone", "witness")
        ada = await self.enter("gone", "ada")
        await ada.channel.track({})
        await witness.until_present({"ada": [{}]})
        await ada.channel.socket.close()
        await witness.until_present({})

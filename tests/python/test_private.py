"""Private channels: who reads and writes, what is replayed, and what a new token changes."""

import time
import unittest
from pathlib import Path

from realtime import RealtimeSubscribeStates
from realtime.exceptions import RealtimeHTTPError

from listening import Heard, ListeningTestCase
from walcast import Walcast

ADA = "11111111-1111-4111-8111-111111111111"
BEN = "22222222-2222-4222-8222-222222222222"
ROOMS = Path(__file__).resolve().parents[1] / "rooms.sql"


def setUpModule():
    ListeningTestCase.walcast = Walcast()
    unittest.addModuleCleanup(ListeningTestCase.walcast.stop)
    ListeningTestCase.walcast.run_script(ROOMS.read_text())


def note(payload):
    """A broadcast as listeners are given it."""
    return {"event": "note", "payload": payload}


def errored(status):
    return status[0] == RealtimeSubscribeStates.CHANNEL_ERROR


def closed(status):
    return status[0] == RealtimeSubscribeStates.CLOSED


class PrivateTestCase(ListeningTestCase):
    async def allow(self, user, topic, reads=False, writes=False):
        """Says what a user may do in a room from now on."""
        await self.walcast.sql(
            """insert into public.members (topic, user_id, reads, writes) values ($1, $2, $3, $4)
               on conflict (topic, user_id, extension) do update set reads = excluded.reads, writes = excluded.writes""",
            topic,
            user,
            reads,
            writes,
        )

    def sign_in(self, user):
        return self.connect(token=self.walcast.user_token(user))

    async def enter(self, user, topic, broadcast=None):
        """A private channel that a user has joined."""
        return await self.join(topic, self.sign_in(user), private=True, broadcast=broadcast)


class Rights(PrivateTestCase):
    async def test_members_hear_each_other_and_public_channels_of_the_name_do_not(self):
        for user in (ADA, BEN):
            await self.allow(user, "room", reads=True, writes=True)
        ada, ben = await self.enter(ADA, "room"), await self.enter(BEN, "room")
        outside, outsider = await self.join("room"), await self.join("room")
        await ada.channel.send_broadcast("note", {"from": "Ada"})
        self.assertEqual(await ben.broadcasts.next(), note({"from": "Ada"}))
        await outsider.channel.send_broadcast("note", {"from": "outside"})
        self.assertEqual(await outside.broadcasts.next(), note({"from": "outside"}))
        await ada.channel.send_broadcast("note", {"from": "Ada again"})
        self.assertEqual(await ben.broadcasts.next(), note({"from": "Ada again"}))
        self.assertEqual(outside.broadcasts.size, 0)

    async def test_who_may_not_read_is_refused_with_the_reason(self):
        await self.allow(BEN, "closed", writes=True)
        for client in (self.sign_in(BEN), self.connect()):
            status, error = await Heard(client, "closed", private=True).subscribe()
            self.assertEqual(status, RealtimeSubscribeStates.CHANNEL_ERROR)
            reason = "Unauthorized: You do not have permissions to read from this Channel topic: closed"
            self.assertEqual(str(error), f'{{"reason": "{reason}"}}')

    async def test_who_may_not_write_is_not_relayed(self):
        await self.allow(ADA, "lecture", reads=True, writes=True)
        await self.allow(BEN, "lecture", reads=True)
        ada, ben = await self.enter(ADA, "lecture"), await self.enter(BEN, "lecture")
        third = await self.enter(ADA, "lecture")
        await ben.channel.send_broadcast("note", {"from": "Ben"})
        await third.channel.send_broadcast("note", {"from": "Ada"})
        self.assertEqual(await ada.broadcasts.next(), note({"from": "Ada"}))
        self.assertEqual(await ben.broadcasts.next(), note({"from": "Ada"}))

    async def test_by_http_the_right_to_write_is_enough_and_needed(self):
        await self.allow(ADA, "letters", reads=True)
        await self.allow(BEN, "letters", writes=True)
        receiver = await self.enter(ADA, "letters")
        with self.assertRaises(RealtimeHTTPError) as refused:
            await Heard(self.sign_in(ADA), "letters", private=True).channel.http_send("note", {"from": "Ada"})
        self.assertEqual((refused.exception.status, str(refused.exception)), (403, "Unauthorized"))
        await Heard(self.sign_in(BEN), "letters", private=True).channel.http_send("note", {"from": "Ben"})
        self.assertEqual(await receiver.broadcasts.next(), note({"from": "Ben"}))

    async def test_what_the_database_sends_arrives_with_the_id_of_its_row(self):
        await self.allow(ADA, "vault", reads=True)
        heard = await self.enter(ADA, "vault", {"replication_ready": True})
        await heard.systems.until(lambda message: message.message == "Replication connection established")
        await self.walcast.sql("""select realtime.send('{"n": 1}', 'note', 'vault')""")
        received = await heard.broadcasts.next()
        row_id = received["meta"]["id"]
        self.assertEqual(received, {**note({"n": 1, "id": row_id}), "meta": {"id": row_id}})


class Replays(PrivateTestCase):
    async def test_kept_messages_come_after_the_join_oldest_first(self):
        await self.allow(ADA, "history", reads=True, writes=True)
        ids = []
        for minutes_ago in (30, 10, 5, 1):
            [row] = await self.walcast.sql(
                """insert into realtime.messages (topic, extension, event, payload, private, inserted_at)
                   values ('history', 'broadcast', 'note', jsonb_build_object('ago', $1::int), true,
                           (now() - make_interval(mins => $1)) at time zone 'utc')
                   returning id""",
                minutes_ago,
            )
            ids.append(str(row["id"]))
        twenty_minutes_ago_ms = int((time.time() - 20 * 60) * 1000)
        heard = await self.enter(ADA, "history", {"replay": {"since": twenty_minutes_ago_ms, "limit": 2}})
        for minutes_ago, row_id in [(5, ids[2]), (1, ids[3])]:
            expected = {**note({"ago": minutes_ago}), "meta": {"replayed": True, "id": row_id}}
            self.assertEqual(await heard.broadcasts.next(), expected)
        sender = await self.enter(ADA, "history")
        await sender.channel.send_broadcast("note", {"live": True})
        self.assertEqual(await heard.broadcasts.next(), note({"live": True}))

    async def test_a_public_channel_cannot_replay(self):
        status, error = await Heard(self.connect(), "public", broadcast={"replay": {"since": 0}}).subscribe()
        self.assertEqual(status, RealtimeSubscribeStates.CHANNEL_ERROR)
        self.assertIn("UnableToReplayMessages: Replay is not allowed for public channels", str(error))


class Tokens(PrivateTestCase):
    async def test_a_new_token_brings_the_right_to_write(self):
        await self.allow(ADA, "gain", reads=True)
        await self.allow(BEN, "gain", reads=True)
        ada, client = await self.enter(ADA, "gain"), self.sign_in(BEN)
        ben = await self.join("gain", client, private=True, broadcast={"self": True})
        await ben.channel.send_broadcast("note", {"n": 1})
        await self.allow(BEN, "gain", reads=True, writes=True)
        await client.set_auth(self.walcast.user_token(BEN, fresh=True))
        await ben.channel.send_broadcast("note", {"n": 2})
        self.assertEqual(await ada.broadcasts.next(), note({"n": 2}))
        self.assertEqual(await ben.broadcasts.next(), note({"n": 2}))

    async def test_a_new_token_without_the_right_to_read_closes_the_channel(self):
        await self.allow(ADA, "expelled", reads=True, writes=True)
        await self.allow(BEN, "expelled", reads=True)
        client = self.sign_in(BEN)
        ada, ben = await self.enter(ADA, "expelled"), await self.join("expelled", client, private=True)
        await self.allow(BEN, "expelled")
        await client.set_auth(self.walcast.user_token(BEN, fresh=True))
        _, error = await ben.statuses.until(errored)
        self.assertIn("You do not have permissions to read from this Channel topic: expelled", str(error))
        await ben.statuses.until(closed)
        await ada.channel.send_broadcast("note", {"n": 1})
        self.assertEqual(ben.broadcasts.size, 0)

    async def test_a_channel_is_closed_when_its_token_expires_unless_it_has_a_new_one(self):
        for user in (ADA, BEN):
            await self.allow(user, "short", reads=True, writes=True)
        expires_s = int(time.time()) + 3
        ada_client, ben_client = (
            self.connect(token=self.walcast.user_token(user, exp=expires_s)) for user in (ADA, BEN)
        )
        ada = await self.join("short", ada_client, private=True, broadcast={"self": True})
        ben = await self.join("short", ben_client, private=True)
        await ada_client.set_auth(self.walcast.user_token(ADA))
        _, error = await ben.statuses.until(errored)
        self.assertRegex(str(error), r"Token has expired [01] seconds ago")
        await ben.statuses.until(closed)
        await ada.channel.send_broadcast("note", {"n": 1})
        self.assertEqual(await ada.broadcasts.next(), note({"n": 1}))
        self.assertEqual(ben.broadcasts.size, 0)

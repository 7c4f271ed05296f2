"""Broadcasts and changes, for everybody."""

import asyncio
import unittest

from realtime import RealtimeAcknowledgementStatus, RealtimePostgresChangesListenEvent, RealtimeSubscribeStates
from realtime.exceptions import RealtimeHTTPError
from websockets.exceptions import InvalidStatus

from listening import Heard, Inbox, ListeningTestCase
from walcast import Walcast


def setUpModule():
    ListeningTestCase.walcast = Walcast()
    unittest.addModuleCleanup(ListeningTestCase.walcast.stop)


def note(payload):
    """A broadcast as listeners are given it."""
    return {"event": "note", "payload": payload}


class Broadcasts(ListeningTestCase):
    async def test_a_broadcast_reaches_the_others_as_it_was_sent_and_not_its_sender(self):
        sender, receiver = await self.join("plain"), await self.join("plain")
        for payload in [{"text": "hello"}, {}, {"nested": [1, 2.5, None, {"žluťoučký": "🐎 \"\\\n"}]}]:
            await sender.channel.send_broadcast("note", payload)
            self.assertEqual(await receiver.broadcasts.next(), note(payload))
        # Had the sender heard itself, this would not be the first that it hears.
        await receiver.channel.send_broadcast("note", {"to": "sender"})
        self.assertEqual(await sender.broadcasts.next(), note({"to": "sender"}))

    async def test_with_self_the_sender_hears_it_too(self):
        sender = await self.join("self", broadcast={"self": True})
        await sender.channel.send_broadcast("note", {"heard": True})
        self.assertEqual(await sender.broadcasts.next(), note({"heard": True}))

    async def test_a_channel_that_is_not_joined_sends_by_http(self):
        receiver = await self.join("by/HTTP é")
        unjoined = Heard(self.connect(), "by/HTTP é")
        await unjoined.channel.http_send("note/é", {"n": 1})
        self.assertEqual(await receiver.broadcasts.next(), {"event": "note/é", "payload": {"n": 1}})
        with self.assertRaises(RealtimeHTTPError) as refused:
            await unjoined.channel.http_send("note", {"text": "x" * 3_000_500})
        self.assertEqual(refused.exception.status, 422)

    async def test_with_ack_a_push_is_answered(self):
        receiver, sender = await self.join("answered"), await self.join("answered", broadcast={"ack": True})
        push = await sender.channel.push("broadcast", {"type": "broadcast", **note({"n": 1})})
        answers = Inbox("answer")
        push.receive(RealtimeAcknowledgementStatus.Ok, answers.push)
        await answers.next()
        self.assertEqual(await receiver.broadcasts.next(), note({"n": 1}))

    async def test_listeners_get_their_events_alone(self):
        client = self.connect()
        heard, notes = Heard(client, "events"), Inbox("note")
        heard.channel.on_broadcast("note", notes.push)
        await heard.subscribe()
        sender = await self.join("events")
        for event in ["other", "note"]:
            await sender.channel.send_broadcast(event, {})
        self.assertEqual(await notes.next(), note({}))
        self.assertEqual(heard.broadcasts.size, 2)

    async def test_who_has_left_hears_nothing_more_and_can_join_again(self):
        sender, client = await self.join("leaving"), self.connect()
        first = await self.join("leaving", client)
        await first.channel.unsubscribe()
        await first.statuses.until(lambda status: status[0] == RealtimeSubscribeStates.CLOSED)
        await sender.channel.send_broadcast("note", {"n": 1})
        second = await self.join("leaving", client)
        await sender.channel.send_broadcast("note", {"n": 2})
        self.assertEqual(await second.broadcasts.next(), note({"n": 2}))
        self.assertEqual(first.broadcasts.size, 0)

    async def test_a_client_joins_again_by_itself_when_its_server_is_back(self):
        own = await asyncio.to_thread(Walcast)
        self.addCleanup(own.stop)
        self.walcast = own
        heard = await self.join("back", broadcast={"self": True})
        await asyncio.to_thread(own.crash_and_restart)
        joined = lambda status: status[0] == RealtimeSubscribeStates.SUBSCRIBED
        await heard.statuses.until(joined, limit_s=30)
        await heard.channel.send_broadcast("note", {"n": 1})
        self.assertEqual(await heard.broadcasts.next(), note({"n": 1}))


class Changes(ListeningTestCase):
    def setUp(self):
        self.walcast.run_script("""
            create table public.items (id int primary key, room_id int, name text, tags text[]);
            alter table public.items replica identity full;
            grant select on public.items to anon;
            alter publication supabase_realtime add table public.items;
        """)
        self.addCleanup(self.walcast.run_script, "drop table public.items")

    async def listen(self, *bindings):
        heard = Heard(self.connect(), "items")
        for event, options in bindings:
            heard.channel.on_postgres_changes(event, callback=heard.changes.push, schema="public", **options)
        self.assertEqual(await heard.subscribe(), (RealtimeSubscribeStates.SUBSCRIBED, None))
        return heard

    async def test_inserts_updates_and_deletes_arrive_in_commit_order(self):
        heard = await self.listen((RealtimePostgresChangesListenEvent.All, {"table": "items"}))
        await self.walcast.sql("insert into public.items values (1, 7, 'one', '{a,b}')")
        await self.walcast.sql("update public.items set name = 'uno'")
        await self.walcast.sql("delete from public.items")
        one, uno = ({"id": 1, "room_id": 7, "name": name, "tags": ["a", "b"]} for name in ("one", "uno"))
        seen = []
        for _ in range(3):
            data = (await heard.changes.next())["data"]
            self.assertIsNone(data["errors"])
            seen.append((data["type"], data.get("record"), data.get("old_record")))
        self.assertEqual(seen, [("INSERT", one, None), ("UPDATE", uno, one), ("DELETE", None, uno)])

    async def test_each_listener_gets_what_its_filter_matches(self):
        insert = RealtimePostgresChangesListenEvent.Insert
        heard = await self.listen((insert, {"table": "items", "filter": "room_id=eq.7"}))
        await self.walcast.sql("insert into public.items values (1, 8), (2, 7)")
        self.assertEqual((await heard.changes.next())["data"]["record"]["id"], 2)

    async def test_selected_columns_come_with_the_key_alone(self):
        insert = RealtimePostgresChangesListenEvent.Insert
        heard = await self.listen((insert, {"table": "items", "select": ["name"]}))
        await self.walcast.sql("insert into public.items values (1, 7, 'one')")
        self.assertEqual((await heard.changes.next())["data"]["record"], {"id": 1, "name": "one"})

    async def test_the_subscription_is_confirmed(self):
        heard = await self.listen((RealtimePostgresChangesListenEvent.All, {"table": "items"}))
        message = await heard.systems.next()
        self.assertEqual(
            (message.extension, message.status, message.message, message.channel),
            ("postgres_changes", "ok", "Subscribed to PostgreSQL", "items"),
        )

    async def test_a_table_that_is_not_published_is_an_error_of_the_channel(self):
        heard = await self.listen((RealtimePostgresChangesListenEvent.All, {"table": "nothing"}))
        status, error = await heard.statuses.next()
        self.assertEqual(status, RealtimeSubscribeStates.CHANNEL_ERROR)
        self.assertIn("Unable to subscribe to changes with given parameters", str(error))


class Tokens(ListeningTestCase):
    async def test_a_wrong_key_is_refused(self):
        client = self.connect(apikey=f"{self.walcast.anon_key[:-5]}wrong")
        client.auto_reconnect = False
        with self.assertRaises(InvalidStatus) as refused:
            await client.connect()
        self.assertEqual(refused.exception.response.status_code, 401)
        self.assertEqual(refused.exception.response.body, b'{"error":"Failed to validate JWT signature"}')

    async def test_a_join_with_an_expired_token_is_refused_with_the_reason(self):
        heard = Heard(self.connect(token=self.walcast.user_token("u", exp=1)), "expired")
        status, error = await heard.subscribe()
        self.assertEqual(status, RealtimeSubscribeStates.CHANNEL_ERROR)
        self.assertRegex(str(error), r'^{"reason": "InvalidJWTToken: Token has expired \d+ seconds ago"}$')
